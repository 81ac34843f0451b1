"""The partition at low resolution: which segment each cell of a coarse grid belongs to.

Crayon prompts colour some 35 x 35 cells. A cell belongs to the segment that covers most of it; where two cover the
same, to the better one, and to nobody only if nobody's pixels outnumber each segment's. A cell is judged by at most
8 x 8 evenly spaced pixels, which bounds the cost for large pictures; where cells are smaller than pixels, by the pixel
at its middle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SAMPLES = 8
_MAX_COUNTERS = 1 << 22


def index_grid(segment_map: NDArray[np.uint16], rows: int, columns: int) -> NDArray[np.uint16]:
    """`segment_map`: (H, W), 0 for nobody. Returns (rows, columns) uint16 of the same numbers."""
    y, down = _sample(segment_map.shape[0], rows)
    x, across = _sample(segment_map.shape[1], columns)
    numbers = int(segment_map.max(initial=0)) + 1
    grid = np.zeros((rows, columns), np.uint16)
    block = max(1, _MAX_COUNTERS // (columns * numbers))  # rows of cells counted at a time, to bound memory
    for first in range(0, rows, block):
        here = slice(first, min(first + block, rows))
        sampled = segment_map[np.ix_(y[here.start * down : here.stop * down], x)]
        height = here.stop - here.start
        cell = np.repeat(np.arange(height), down)[:, None] * columns + np.repeat(np.arange(columns), across)
        votes = np.bincount((cell * numbers + sampled).ravel(), minlength=height * columns * numbers)
        votes = votes.reshape(height, columns, numbers)
        if numbers > 1:
            best = votes[:, :, 1:].argmax(axis=2) + 1  # the first of equals is the better scored
            won = np.take_along_axis(votes, best[:, :, None], axis=2)[:, :, 0] >= np.maximum(
                votes[:, :, 0], 1
            )
            grid[here] = np.where(won, best, 0)
    return grid


def _sample(size: int, cells: int) -> tuple[NDArray[np.intp], int]:
    """Pixel positions along one axis, the same number for every cell, and that number."""
    per_cell = min(_SAMPLES, max(1, -(-size // cells)))
    position = (np.arange(cells * per_cell) + 0.5) * size / (cells * per_cell)
    return np.minimum(position.astype(np.intp), size - 1), per_cell
