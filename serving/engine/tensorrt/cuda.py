"""A CUDA device through torch: its allocator, its streams, its graphs; no allocator of our own.

Not run on hardware: written to the documentation, type-checked, and held to `device.py`. The only module here that
loads torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch

from serving.engine.loss import cuda_explained
from serving.engine.protocol import EngineError, Tensor

# Asking the driver for memory may wait for the whole device, which no thread may do while another one records. Every
# engine of a process asks and records under this lock.
_ALONE = threading.RLock()


class CudaBuffer:
    """`Buffer` as two byte tensors, one on the device and one in page-locked host memory."""

    def __init__(self, nbytes: int, stream: torch.cuda.Stream, device: torch.device) -> None:
        self._stream = stream
        with torch.cuda.stream(stream):
            self._device = torch.empty(nbytes, dtype=torch.uint8, device=device)
            self._host = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._device.device

    @property
    def address(self) -> int:
        return self._device.data_ptr()

    def host(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        kind = np.dtype(dtype)
        count = int(np.prod(shape)) * kind.itemsize
        view: Tensor = self._host.numpy()[:count].view(kind).reshape(shape)
        return view

    def upload(self, nbytes: int, offset: int = 0) -> None:
        part = slice(offset, offset + nbytes)
        with cuda_explained("copying to the device"), torch.cuda.stream(self._stream):
            self._device[part].copy_(self._host[part], non_blocking=True)

    def download(self, nbytes: int) -> None:
        with cuda_explained("copying from the device"), torch.cuda.stream(self._stream):
            self._host[:nbytes].copy_(self._device[:nbytes], non_blocking=True)

    def fill(self, offset: int, tensor: torch.Tensor, ready: torch.cuda.Event) -> None:
        """Copy a contiguous `tensor` of this device to `offset` bytes from the beginning, in the stream's order and not
        before `ready`; returns at once. The tensor's memory is not used again before the copy is done.
        """
        flat = tensor.view(-1).view(torch.uint8)
        with cuda_explained("copying on the device"), torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            self._device[offset : offset + flat.numel()].copy_(flat, non_blocking=True)
            # It was made on another stream: its memory goes back to that one's pool only when this copy is done.
            tensor.record_stream(self._stream)


class CudaDevice:
    """`Device` on the GPU of this index. Raises EngineError where torch finds no such GPU."""

    def __init__(self, index: int = 0) -> None:
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise EngineError(f"torch finds no CUDA device {index}")
        self._device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    @property
    def device(self) -> torch.device:
        """As torch names it."""
        return self._device

    @property
    def stream(self) -> int:
        return self._stream.cuda_stream

    @contextmanager
    def current(self) -> Iterator[None]:
        # Turning to a device that is lost fails too.
        with cuda_explained("computing"), torch.cuda.device(self._device):
            yield

    def buffer(self, nbytes: int) -> CudaBuffer:
        with _ALONE, cuda_explained(f"asking for {nbytes} bytes on {self._device}"), self.current():
            return CudaBuffer(nbytes, self._stream, self._device)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # Not by `torch.cuda.graph`, which waits for the whole device and collects garbage first. Other threads may use
        # the device meanwhile, in streams of their own.
        with _ALONE, cuda_explained("recording"), torch.cuda.stream(self._stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                # Also where the recording is lost already: the stream has to leave it.
                with suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()

        def replay() -> None:
            with cuda_explained("replaying"), torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def synchronize(self) -> None:
        with cuda_explained("computing"):
            self._stream.synchronize()

    def close(self) -> None:
        self.synchronize()
