"""What an expert makes of a picture, in words that a device can follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Filter = Literal["bilinear", "antialiased"]
"""`bilinear`: the four neighbours of each output's middle, as `cv2.resize` with INTER_LINEAR. `antialiased`: a triangle
as wide as the scale, as Pillow's `resize` with BILINEAR. Middles of pixels are aligned in both, and the result is
rounded to whole levels as both do."""

Levels = tuple[float, float, float]

IMAGENET_MEAN: Levels = (123.675, 116.28, 103.53)
IMAGENET_DEVIATION: Levels = (58.395, 57.12, 57.375)
"""Red, green, blue: what networks that began with ImageNet's pictures are given them by."""


@dataclass(frozen=True)
class Recipe:
    """From a picture (H, W, 3) uint8 RGB to (3, height, width) float32.

    The picture is scaled to `scaled_height` x `scaled_width`, put with its upper left corner at (`left`, `top`) of the
    input, and becomes (level - mean) / deviation, channel by channel in the order that the network takes; both are in
    levels of 0-255, in that order. `padding`: the level of what the picture does not cover, normalised as the picture
    is; None: 0 in the input itself. `reversed_channels`: the network takes blue first.
    """

    filter: Filter
    scaled_height: int
    scaled_width: int
    height: int
    width: int
    mean: Levels
    deviation: Levels
    top: int = 0
    left: int = 0
    padding: float | None = None
    reversed_channels: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a picture that does not lie within the input."""
        inside = (
            min(self.scaled_height, self.scaled_width) >= 1
            and min(self.top, self.left) >= 0
            and self.top + self.scaled_height <= self.height
            and self.left + self.scaled_width <= self.width
        )
        if not inside or not all(each > 0 for each in self.deviation):
            raise ValueError(
                f"the picture does not lie within the input, or a deviation is not positive: {self}"
            )


@dataclass(frozen=True)
class SquareRecipe:
    """From a picture (H, W, 3) uint8 RGB to (3, side, side) float32, as OWLv2 takes it.

    The picture lies in the upper left corner of a square as large as its longer side, the rest of which has the level
    `padding`. The square is smoothed where it shrinks (Gaussian, its deviation half of what the scale exceeds 1 by,
    mirrored at the ends), scaled by the four neighbours of each output's middle, not rounded, and normalised as a
    `Recipe` does it.
    """

    side: int
    mean: Levels
    deviation: Levels
    padding: float

    def __post_init__(self) -> None:
        """Raises ValueError for a square of nothing, or a deviation that is not positive."""
        if self.side < 1 or not all(each > 0 for each in self.deviation):
            raise ValueError(f"the square is empty, or a deviation is not positive: {self}")
