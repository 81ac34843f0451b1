"""From a picture to the network's input. No torch, and never a padded copy of the picture.

The published preparation pads the picture to a square at the right and below, smooths it where it will shrink, and
resizes it without antialiasing. Along each axis that is one linear map from pixels to pixels, so each output row is a
weighted sum of a few input rows: what would be a square of a gigabyte for a very long picture is not made.

- `serving` equals transformers' `Owlv2ImageProcessor` (5.x, torchvision) with the padding that OWLv2 was trained with:
  mid-grey, as in the authors' code and in transformers up to 4.x. 5.x pads with black.
- `reference` is what MoAI does: the picture is squashed to 490 x 490 first, and transformers 4.38 enlarges that with
  scipy's `zoom`, whose border mirrors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.preprocess.recipe import Levels, SquareRecipe

Float = NDArray[np.float32]

SQUASHED = 490
"""Side in pixels of what the published system makes of every picture first."""

GREY = 0.5
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


_BLOCK = 32  # output rows made at a time: the input rows they need fit in a cache


@dataclass(frozen=True)
class _Taps:
    """For every output position, K input positions and the weight of each: (outputs, K)."""

    positions: NDArray[np.intp]
    weights: Float

    @property
    def inside(self) -> Float:
        """(outputs,): how much of each output's weight lies within the picture."""
        total: Float = self.weights.sum(axis=1, dtype=np.float32)
        return total


def network_input(image: NDArray[np.uint8], size: int, *, padding: float = GREY) -> Float:
    """`image`: (H, W, 3) uint8 RGB. Returns (3, size, size) float32: padded to a square with `padding` (0-1), resized,
    normalised as CLIP's pictures are."""
    height, width = image.shape[:2]
    square = max(height, width)
    rows, columns = _shrinking(height, square, size), _shrinking(width, square, size)
    pixels = _resampled(image, rows, columns) * np.float32(1 / 255)
    pixels += np.float32(padding) * (1 - np.outer(rows.inside, columns.inside))
    return _normalised(pixels)


def input_recipe(size: int) -> SquareRecipe:
    """`network_input` in words that a device can follow."""
    return SquareRecipe(size, _levels(_MEAN), _levels(_DEVIATION), GREY * 255)


def _levels(shares: Float) -> Levels:
    red, green, blue = (float(share) * 255 for share in shares)
    return red, green, blue


def reference_input(image: NDArray[np.uint8], size: int) -> Float:
    """As `network_input`, the way of the published system; nothing is padded, since what it squashes is square."""
    taps = _between(SQUASHED, size, mirror=True)
    return _normalised(_resampled(squash(image), taps, taps) * np.float32(1 / 255))


def squash(image: NDArray[np.uint8], side: int = SQUASHED) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> (side, side, 3) uint8, bilinear without antialiasing, rounded half to even.

    The four neighbours are added up in torch's order, each step rounded once: which way a half goes depends on it.
    """
    if image.shape[:2] == (side, side):
        return image
    rows, columns = _between(image.shape[0], side), _between(image.shape[1], side)
    (above, below), (left, right) = rows.positions.T, columns.positions.T
    above_weight, below_weight = rows.weights.T[:, :, None, None]
    left_weight, right_weight = columns.weights.T[:, None, :, None]
    total = _taken(image, above, right) * (above_weight * right_weight)
    total = _fused(_taken(image, above, left), above_weight * left_weight, total)
    total = _fused(_taken(image, below, left), below_weight * left_weight, total)
    total = _fused(_taken(image, below, right), below_weight * right_weight, total)
    return np.rint(total).astype(np.uint8)


def _taken(image: NDArray[np.uint8], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Float:
    return image[rows][:, columns].astype(np.float32)


def _fused(factor: Float, weight: Float, total: Float) -> Float:
    """factor * weight + total, rounded to float32 once."""
    product = np.multiply(factor, weight, dtype=np.float64)
    product += total
    return product.astype(np.float32)


def _normalised(pixels: Float) -> Float:
    pixels -= _MEAN[:, None, None]
    pixels /= _DEVIATION[:, None, None]
    return np.ascontiguousarray(pixels)


def _resampled(image: NDArray[np.uint8], rows: _Taps, columns: _Taps) -> Float:
    """(H, W, 3) uint8 -> (3, rows, columns) float32 in 0-255; the longer side first, so that less is left."""
    height, width = image.shape[:2]
    if height >= width:
        tall = _along(image.reshape(height, -1), rows).reshape(-1, width, 3)
        turned = _along(tall.transpose(1, 0, 2).reshape(width, -1), columns)
        return turned.reshape(len(columns.positions), -1, 3).transpose(2, 1, 0).copy()
    wide = _along(image.transpose(1, 0, 2).reshape(width, -1), columns).reshape(-1, height, 3)
    straight = _along(wide.transpose(1, 0, 2).reshape(height, -1), rows)
    return straight.reshape(len(rows.positions), -1, 3).transpose(2, 0, 1).copy()


def _along(values: NDArray[np.uint8] | Float, taps: _Taps) -> Float:
    """(N, M) -> (outputs, M) float32. Neighbouring outputs need neighbouring inputs: each block of outputs is one small
    matrix times a band of `values`."""
    result = np.empty((len(taps.positions), values.shape[1]), np.float32)
    for first in range(0, len(result), _BLOCK):
        positions, weights = taps.positions[first : first + _BLOCK], taps.weights[first : first + _BLOCK]
        low, high = int(positions.min()), int(positions.max()) + 1
        matrix = np.zeros((len(positions), high - low), np.float32)
        np.add.at(matrix, (np.arange(len(positions))[:, None], positions - low), weights)
        np.matmul(matrix, values[low:high].astype(np.float32), out=result[first : first + _BLOCK])
    return result


def _between(source: int, target: int, *, mirror: bool = False) -> _Taps:
    """Bilinear: the two neighbours of each output's middle. `mirror`: beyond the first and last middle the picture is
    mirrored about it, instead of held."""
    last = source - 1
    # torch's position of a middle, in float32 but for one fused step.
    scale = np.float64(np.float32(source) / np.float32(target))
    middles = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    if mirror:
        middles = np.abs(middles)
        middles = np.where(middles > last, 2 * last - middles, middles)
    middles = np.maximum(middles, np.float32(0))
    low = np.minimum(middles.astype(np.intp), last)
    high_weight = middles - low.astype(np.float32)
    positions = np.stack([low, np.minimum(low + 1, last)], axis=1)
    return _Taps(positions, np.stack([1 - high_weight, high_weight], axis=1))


def _shrinking(side: int, square: int, target: int) -> _Taps:
    """Gaussian smoothing of a padded side (standard deviation: half of what the scale exceeds 1 by), mirrored at both
    ends of the square, then `_between`: composed. What lies in the padding gets weight 0."""
    plain = _between(square, target)
    deviation = (square / target - 1) / 2
    if deviation <= 0:
        positions, weights = plain.positions, plain.weights
    else:
        radius = int(np.ceil(3 * deviation))
        offsets = np.arange(-radius, radius + 1)
        kernel = np.exp(-0.5 * (offsets / deviation) ** 2)
        around = np.abs(plain.positions[:, :, None] + offsets)
        around = np.where(around >= square, 2 * (square - 1) - around, around)
        positions = around.reshape(target, -1)
        weights = (plain.weights[:, :, None] * (kernel / kernel.sum())).reshape(target, -1).astype(np.float32)
    beyond = positions >= side
    return _Taps(np.where(beyond, side - 1, positions), np.where(beyond, np.float32(0), weights))
