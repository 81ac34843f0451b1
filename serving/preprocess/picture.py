"""A picture wherever it is: decoded on the host, or on a device that prepares it too.

Models are written against this. It loads neither torch nor an image library.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.engine.tensorrt.device import PlacedTensor
from serving.preprocess.recipe import Recipe, SquareRecipe


class PlacedPicture(Protocol):
    """A picture on a device. Used by the thread that decoded it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, channels: as a picture on the host has it."""
        ...

    def prepare(self, recipe: Recipe | SquareRecipe) -> PlacedTensor:
        """The network's input, on the device; waits for nothing. Raises EngineError when the device fails."""
        ...

    def to_host(self) -> NDArray[np.uint8]:
        """A copy of its pixels, (H, W, 3) RGB; waits for it. Raises EngineError when the device fails."""
        ...

    def exact(self) -> NDArray[np.uint8]:
        """Its file decoded by the host, (H, W, 3) RGB: to the bit what it is where there is no device. Raises as
        `serving.image.decode_image`."""
        ...


Picture = NDArray[np.uint8] | PlacedPicture
"""(H, W, 3) uint8 RGB, upright: on the host, or on a device."""


def exact(picture: Picture) -> NDArray[np.uint8]:
    """`picture` as the host decodes it, for what follows a published system to the last digit."""
    return picture if isinstance(picture, np.ndarray) else picture.exact()
