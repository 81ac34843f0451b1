"""Masks of mask logits: how alike two are, and one drawn at the picture's own size. Pure functions of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.scene_graph.psgtr.pixels import MASK_STRIDE, Fit, Float
from serving.yolo import CroppedMask

SURE = float(np.log(0.85 / 0.15))
"""A cell is of a mask if its logit is above this: a probability of 0.85, as published."""

Bool = NDArray[np.bool_]


def overlaps(base: Bool, others: Bool, weights: Float | None = None) -> Float:
    """Intersection over union of one mask (h, w) with each of (N, h, w), (N,) float32; NaN where both are empty.

    `weights`: (h, w), how much a cell counts; unset, all count alike.
    """
    shared, either = base & others, base | others
    if weights is None:
        counts = [np.count_nonzero(mask, axis=(1, 2)).astype(np.float32) for mask in (shared, either)]
    else:
        counts = [(mask * weights).sum(axis=(1, 2), dtype=np.float32) for mask in (shared, either)]
    with np.errstate(invalid="ignore"):
        overlap: Float = counts[0] / counts[1]
    return overlap


def box_overlaps(base: Float, others: Float) -> Float:
    """Intersection over union of one box (4,) xyxy with each of (N, 4), (N,) float32; 0 for empty boxes."""
    extent = np.clip(np.minimum(base[2:], others[:, 2:]) - np.maximum(base[:2], others[:, :2]), 0, None)
    shared = extent[:, 0] * extent[:, 1]
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    either = (base[2] - base[0]) * (base[3] - base[1]) + areas - shared
    overlap: Float = shared / np.maximum(either, np.float32(1e-12))
    return overlap


def draw(logits: Float, fit: Fit) -> CroppedMask:
    """One mask at the size of the picture: logits (h, w), interpolated bilinearly, above `SURE`.

    Only the part around sure cells is looked at: between two unsure cells no pixel is sure.
    """
    sure = logits > SURE
    rows, columns = np.flatnonzero(sure.any(axis=1)), np.flatnonzero(sure.any(axis=0))
    if not len(rows):
        return CroppedMask(0, 0, np.zeros((0, 0), np.bool_))
    down = _Axis(fit.height, fit.scaled_height, logits.shape[0], int(rows[0]), int(rows[-1]))
    across = _Axis(fit.width, fit.scaled_width, logits.shape[1], int(columns[0]), int(columns[-1]))
    stretched = down.between(logits)
    pixels = across.between(stretched.T).T > SURE
    return CroppedMask(down.first, across.first, np.asfortranarray(pixels))


class _Axis:
    """Pixels of one side of the picture that lie within a cell of the cells `low` … `high`, and their neighbours."""

    def __init__(self, size: int, scaled: int, cells: int, low: int, high: int) -> None:
        position = (np.arange(size) + 0.5) * (scaled / size / MASK_STRIDE) - 0.5
        near = np.flatnonzero((position > low - 1) & (position < high + 1))
        if not len(near):  # the picture is smaller than its mask, and no pixel's middle is near these cells
            near = np.array([np.abs(position - low).argmin()])
        self.first = int(near[0])
        place = np.clip(position[near[0] : near[-1] + 1], 0, cells - 1)
        self._before = np.floor(place).astype(np.intp)
        self._after = np.minimum(self._before + 1, cells - 1)
        self._share = (place - self._before).astype(np.float32)[:, None]

    def between(self, rows: Float) -> Float:
        """Interpolate along the first axis."""
        mixed: Float = rows[self._before] * (1 - self._share) + rows[self._after] * self._share
        return mixed
