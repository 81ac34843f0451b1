"""A CUDA device through torch: its allocator, its streams, its graphs; no allocator of our own.

Not run on hardware: written to the documentation, type-checked, and held to `device.py`. The only module here that
loads torch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from serving.engine.protocol import EngineError, Tensor


class CudaBuffer:
    """`Buffer` as two byte tensors, one on the device and one in page-locked host memory."""

    def __init__(self, nbytes: int, stream: torch.cuda.Stream, device: torch.device) -> None:
        self._stream = stream
        with torch.cuda.stream(stream):
            self._device = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self._host = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    @property
    def address(self) -> int:
        return self._device.data_ptr()

    def host(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        kind = np.dtype(dtype)
        count = int(np.prod(shape)) * kind.itemsize
        view: Tensor = self._host.numpy()[:count].view(kind).reshape(shape)
        return view

    def upload(self, nbytes: int) -> None:
        with torch.cuda.stream(self._stream):
            self._device[:nbytes].copy_(self._host[:nbytes], non_blocking=True)

    def download(self, nbytes: int) -> None:
        with torch.cuda.stream(self._stream):
            self._host[:nbytes].copy_(self._device[:nbytes], non_blocking=True)


class CudaDevice:
    """`Device` on the GPU of this index. Raises EngineError where torch finds no such GPU."""

    def __init__(self, index: int = 0) -> None:
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise EngineError(f"torch finds no CUDA device {index}")
        self._device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    @property
    def stream(self) -> int:
        return self._stream.cuda_stream

    def buffer(self, nbytes: int) -> CudaBuffer:
        try:
            return CudaBuffer(nbytes, self._stream, self._device)
        except torch.cuda.OutOfMemoryError as error:
            raise EngineError(f"no {nbytes} bytes left on {self._device}: {error}") from error

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # Other threads (other engines of the process) may use the device meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def synchronize(self) -> None:
        self._stream.synchronize()

    def close(self) -> None:
        self._stream.synchronize()
