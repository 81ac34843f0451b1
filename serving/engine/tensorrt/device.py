"""What the execution engine needs of a device: memory, copies, one stream, and work that can be replayed.

`cuda.py` has it on a GPU. Tests have it in host memory, so that everything in `engine.py` (shapes, profiles, padding,
the order of copies and runs) is exercised where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from serving.engine.protocol import Tensor


class Buffer(Protocol):
    """A piece of device memory with its page-locked twin on the host, both of one size in bytes."""

    @property
    def address(self) -> int:
        """Where it begins on the device."""
        ...

    def host(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        """The beginning of the host twin as a numpy array, sharing its memory."""
        ...

    def upload(self, nbytes: int) -> None:
        """Copy the first bytes from host to device, in the stream's order; returns at once."""
        ...

    def download(self, nbytes: int) -> None:
        """Copy the first bytes from device to host, in the stream's order; returns at once."""
        ...


class Device(Protocol):
    """One GPU and one stream of work on it. Used by one thread."""

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        ...

    def buffer(self, nbytes: int) -> Buffer:
        """New memory of this size. Raises EngineError when there is none."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts into the stream; gives a function that puts all of it there again.

        `work` may put nothing into other streams and must not wait. It is not run by recording it.
        """
        ...

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
