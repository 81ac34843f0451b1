"""Bilinear resizing of float maps, rounding for rounding as torch does it.

Which of two queries owns a pixel, and whether a pixel passes a threshold, can hang on the last bit. So this repeats
the arithmetic of `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` on one thread of a CPU with
fused multiply-add. torch has two kernels: into a small map (height + width at most 128) the four neighbours are added
up in the order upper right, upper left, lower left, lower right; into a larger one, columns first and then rows. For
exactly three maps at once, such as the channels of a picture, it takes the first kernel at every size: `at_once`.

A fused step of float32 is a float64 step rounded once, but for one sum in some 2**29.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

_SMALL = 128
_BLOCK = 1 << 15  # pixels worked on at a time: what a core's own cache holds


class _Axis(NamedTuple):
    """For every output position: its two neighbours, and the weight of each."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    low_weight: Float
    high_weight: Float


class Bilinear:
    """Resizes maps of one size, (height, width) in pixels, to another; without antialiasing, as torch's default is.

    `at_once`: which of torch's kernels; unset, the one that it takes for many maps.

    Raises ValueError for an empty side.
    """

    def __init__(
        self, source: tuple[int, int], target: tuple[int, int], *, at_once: bool | None = None
    ) -> None:
        if min(*source, *target) < 1:
            raise ValueError(f"cannot resize {source} to {target}: a side is empty")
        self._source, self._target = source, target
        self._at_once = sum(target) <= _SMALL if at_once is None else at_once
        self._rows, self._columns = _axis(source[0], target[0]), _axis(source[1], target[1])

    def __call__(self, image: Float) -> Float:
        """`image`: (height, width) float32 of the source size. Returns float32 of the target size, a new array.

        Raises ValueError for a map of another size.
        """
        resized = np.empty(self._target, np.float32)
        step = max(1, _BLOCK // self._target[1])
        for first in range(0, self._target[0], step):
            rows = slice(first, min(first + step, self._target[0]))
            resized[rows] = self.window(image, rows, slice(0, self._target[1]))
        return resized

    def window(self, image: Float, rows: slice, columns: slice) -> Float:
        """The part of the resized map in `rows` and `columns`, to the last bit as in the whole; may be a view.

        Costs as much as the part is large. Both slices have a start and a stop and are not empty. Raises ValueError
        for a map of another size.
        """
        if image.shape != self._source:
            raise ValueError(f"made for {self._source}, not for {image.shape}")
        if self._source == self._target:
            return image[rows, columns]
        down, across = _part(self._rows, rows), _part(self._columns, columns)
        top = int(down.low[0])
        near = image[top : int(down.high[-1]) + 1]
        down = down._replace(low=down.low - top, high=down.high - top)
        return _all_four(near, down, across) if self._at_once else _by_axes(near, down, across)

    def tiles(self, step: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where the target is cut if the source is cut every `step` rows and columns: first row, first column of each
        tile, and one past the last.

        What lies in a tile of the target is interpolated from its tile of the source and the row and column after it.
        """
        return _cuts(self._rows, self._source[0], step), _cuts(self._columns, self._source[1], step)


def _all_four(image: Float, rows: _Axis, columns: _Axis) -> Float:
    left, right = image[:, columns.low], image[:, columns.high]
    above, below = rows.low_weight[:, None], rows.high_weight[:, None]
    total = right[rows.low] * (above * columns.high_weight)
    total = _fused(left[rows.low], above * columns.low_weight, total)
    total = _fused(left[rows.high], below * columns.low_weight, total)
    return _fused(right[rows.high], below * columns.high_weight, total)


def _by_axes(image: Float, rows: _Axis, columns: _Axis) -> Float:
    wide = _fused(image[:, columns.low], columns.low_weight, image[:, columns.high] * columns.high_weight)
    # As `_fused`, but widened before rows are repeated: that is most of the time of all post-processing.
    product = wide.astype(np.float64)[rows.low]
    product *= rows.low_weight.astype(np.float64)[:, None]
    below = wide[rows.high]
    below *= rows.high_weight[:, None]
    product += below
    return product.astype(np.float32)


def _part(axis: _Axis, positions: slice) -> _Axis:
    return _Axis(
        axis.low[positions],
        axis.high[positions],
        axis.low_weight[positions],
        axis.high_weight[positions],
    )


def _cuts(axis: _Axis, source: int, step: int) -> NDArray[np.intp]:
    return np.append(np.searchsorted(axis.low, np.arange(0, source, step)), len(axis.low))


def _axis(source: int, target: int) -> _Axis:
    scale = np.float32(source) / np.float32(target)
    # torch's position of a middle: (index + 0.5) * scale - 0.5, fused.
    position = ((np.arange(target) + 0.5) * np.float64(scale) - 0.5).astype(np.float32)
    position = np.maximum(position, np.float32(0))
    low = np.minimum(position.astype(np.intp), source - 1)
    high_weight = np.clip(position - low.astype(np.float32), np.float32(0), np.float32(1))
    return _Axis(low, np.minimum(low + 1, source - 1), np.float32(1) - high_weight, high_weight)


def _fused(factor: Float, weight: Float, total: Float) -> Float:
    """factor * weight + total, rounded to float32 once."""
    product = np.multiply(factor, weight, dtype=np.float64)
    product += total
    return product.astype(np.float32)
