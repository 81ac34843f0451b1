"""What the execution engine needs of a device: memory, copies, one stream, and work that can be replayed.

`cuda.py` has it on a GPU. Tests have it in host memory, so that everything in `engine.py` (shapes, profiles, padding,
the order of copies and runs) is exercised where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

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

    def upload(self, nbytes: int, offset: int = 0) -> None:
        """Copy bytes from `offset` on from host to device, in the stream's order; returns at once."""
        ...

    def download(self, nbytes: int) -> None:
        """Copy the first bytes from device to host, in the stream's order; returns at once."""
        ...


@runtime_checkable
class PlacedTensor(Protocol):
    """A tensor that is on the device already, or will be when what was asked of the device before is done."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row: without the batch axis."""
        ...

    @property
    def dtype(self) -> str:
        """numpy's name of the element type."""
        ...

    def copy_to(self, buffer: Buffer, offset: int) -> None:
        """Copy it on the device to `offset` bytes from the beginning of `buffer`, in the order of the buffer's stream;
        returns at once. Raises EngineError for a buffer of another device.
        """
        ...


class Device(Protocol):
    """One GPU and one stream of work on it. Used by one thread at a time, which need not be the one that made it.

    Whatever goes wrong on the device is an EngineError, a DeviceLostError where it will not recover in this process.
    """

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        ...

    def current(self) -> AbstractContextManager[object]:
        """Within it, this is the device of the calling thread.

        A library takes the device of the thread that calls it, not that of what it is given: everything that touches
        the library, its engines or its contexts belongs within.
        """
        ...

    def buffer(self, nbytes: int) -> Buffer:
        """New memory of this size. Raises EngineError when there is none."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts into the stream; gives a function that puts all of it there again.

        The stream must be empty. `work` may put nothing into other streams, must not wait and must not ask for memory.
        It is not run by recording it. Raises EngineError where the device does not take the recording; the stream is
        then as it was before.
        """
        ...

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
