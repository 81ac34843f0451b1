"""A `Recipe` followed in torch, on whatever device the picture is on. No copies between host and device, no waits.

Against the experts' own preparations (Pillow and OpenCV, which round along the way) a level differs by one at most, by
less than half a level on average: `TOLERANCE_LEVELS`. Squares are not rounded: `SQUARE_TOLERANCE_LEVELS`.
"""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from serving.preprocess.recipe import Levels, Recipe, SquareRecipe
from serving.preprocess.squares import square_levels

TOLERANCE_LEVELS = 1
"""The largest difference from an expert's own preparation, in levels of 0-255 before normalisation."""

SQUARE_TOLERANCE_LEVELS = 0.01
"""As above, of a `SquareRecipe`: what float32 sums in another order differ by."""


def prepare(picture: torch.Tensor, recipe: Recipe | SquareRecipe) -> torch.Tensor:
    """`picture`: (H, W, 3) uint8 RGB. Returns (3, height, width) float32, contiguous, on the same device.

    Raises ValueError for another shape or type.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != torch.uint8:
        raise ValueError(f"not (H, W, 3) uint8: {picture.dtype}{list(picture.shape)}")
    planes = picture.permute(2, 0, 1)
    if isinstance(recipe, SquareRecipe):
        levels = square_levels(planes.to(torch.float32), side=recipe.side, padding=recipe.padding)
        made = torch.empty_like(levels, memory_format=torch.contiguous_format)
        _normalise(levels, recipe.mean, recipe.deviation, made)
        return made
    if recipe.reversed_channels:
        planes = planes.flip(0)
    made = torch.empty((3, recipe.height, recipe.width), dtype=torch.float32, device=picture.device)
    for channel, (mean, deviation) in enumerate(zip(recipe.mean, recipe.deviation, strict=True)):
        made[channel].fill_(0.0 if recipe.padding is None else (recipe.padding - mean) / deviation)
    rows = slice(recipe.top, recipe.top + recipe.scaled_height)
    columns = slice(recipe.left, recipe.left + recipe.scaled_width)
    _normalise(_scaled(planes, recipe), recipe.mean, recipe.deviation, made[:, rows, columns])
    return made


def _normalise(levels: torch.Tensor, mean: Levels, deviation: Levels, out: torch.Tensor) -> None:
    # Scalars go along with the kernels; tensors of them would have to be copied to the device first.
    for channel, (middle, spread) in enumerate(zip(mean, deviation, strict=True)):
        out[channel] = (levels[channel] - middle) / spread


def _scaled(planes: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """(3, H, W) uint8 to (3, scaled_height, scaled_width) float32 in whole levels."""
    levels = planes.to(torch.float32)
    size = (recipe.scaled_height, recipe.scaled_width)
    if tuple(planes.shape[1:]) == size:
        return levels
    resized = interpolate(
        levels[None],
        size=size,
        mode="bilinear",
        align_corners=False,
        antialias=recipe.filter == "antialiased",
    )[0]
    return resized.add_(0.5).floor_().clamp_(0, 255)


def turned(picture: torch.Tensor, orientation: int) -> torch.Tensor:
    """(H, W, 3) with an EXIF orientation (1 to 8) undone; a view where that is possible."""
    if orientation >= 5:
        picture = picture.transpose(0, 1)
    flipped = [axis for axis, of in ((0, (3, 4, 7, 8)), (1, (2, 3, 6, 7))) if orientation in of]
    return picture.flip(flipped) if flipped else picture
