"""Quadrilaterals around text: the order of their corners, their sides, and their size.

A quad is a (4, 2) float32 array of x, y in pixels (x right, y down), clockwise as seen in the picture from
the corner at the upper left of the line: 0-1 is the upper side, 1-2 the right, 2-3 the lower, 3-0 the left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Quad = NDArray[np.float32]


def order_corners(points: NDArray[np.number[Any]]) -> Quad:
    """The four corners of a convex quad, in any order, put clockwise from the upper left.

    The left side is made of the two leftmost corners, which is what makes the upper side of a line that is
    tilted by less than 45 degrees the side above its letters.
    """
    # Ties on x (upright rectangles, the common case) are broken by y so that the result is deterministic.
    by_x = points[np.lexsort((points[:, 1], points[:, 0]))]
    left, right = by_x[:2], by_x[2:]
    top_left, bottom_left = left[np.argsort(left[:, 1], kind="stable")]
    top_right, bottom_right = right[np.argsort(right[:, 1], kind="stable")]
    return np.array([top_left, top_right, bottom_right, bottom_left], dtype=np.float32)


def quad_size(quad: Quad) -> tuple[float, float]:
    """Width and height in pixels: the longer of the two opposite sides, each way."""
    sides = np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1)
    return float(max(sides[0], sides[2])), float(max(sides[1], sides[3]))
