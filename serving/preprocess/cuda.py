"""Streams and rows of a CUDA device.

Not run on hardware: written to the documentation, type-checked, and held to `device.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from serving.engine.protocol import EngineError
from serving.engine.tensorrt.cuda import CudaBuffer
from serving.engine.tensorrt.device import Buffer


@dataclass(frozen=True)
class CudaRow:
    """`PlacedTensor` in the memory of one GPU; `ready` is passed when it has been computed."""

    tensor: torch.Tensor
    ready: torch.cuda.Event

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> str:
        return str(self.tensor.dtype).removeprefix("torch.")

    def copy_to(self, buffer: Buffer, offset: int) -> None:
        if not isinstance(buffer, CudaBuffer) or buffer.device != self.tensor.device:
            raise EngineError(f"a picture on {self.tensor.device} is not where the engine runs")
        buffer.fill(offset, self.tensor, self.ready)


class CudaLane:
    """`Lane` on the GPU of this index. Raises EngineError where torch finds no such GPU."""

    def __init__(self, index: int) -> None:
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise EngineError(f"torch finds no CUDA device {index}")
        self._stream = torch.cuda.Stream(torch.device("cuda", index))  # type: ignore[no-untyped-call]

    @property
    def handle(self) -> int:
        return self._stream.cuda_stream

    def current(self) -> torch.cuda.StreamContext:
        return torch.cuda.stream(self._stream)

    def place(self, tensor: torch.Tensor) -> CudaRow:
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record(self._stream)
        return CudaRow(tensor, ready)
