"""The few writes of a plan store, in one place, so that a test can give it a disk that is full."""

from __future__ import annotations

import os
from pathlib import Path


class Disk:
    """The file system as it is."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a new file and flush it to disk. Raises OSError."""
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def publish(self, arrived: Path, place: Path) -> None:
        """Give a finished folder its name: at once or not at all. Raises OSError."""
        place.parent.mkdir(parents=True, exist_ok=True)
        arrived.rename(place)
        descriptor = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
