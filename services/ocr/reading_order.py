"""In which order a person reads lines scattered over a picture: top to bottom, then left to right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.ocr.geometry import Quad


def reading_order(quads: Sequence[Quad]) -> list[int]:
    """Indices of `quads` (see `geometry`; any starting corner) in reading order.

    Lines belong to one row when the middle of the later one lies within half the smaller height of the middle
    of the row's first; a row is read by left edges. Height is the shorter side of the quad, so that a tilted line
    does not swallow its neighbours. Depends on the quads alone, not on the order they come in (equal quads keep
    theirs).
    """
    if not quads:
        return []
    stack = np.stack(quads).astype(np.float64)
    middle = stack.mean(axis=1)
    left = stack[:, :, 0].min(axis=1)
    sides = np.linalg.norm(stack - np.roll(stack, -1, axis=1), axis=2)
    height = np.minimum(sides[:, 0], sides[:, 1])
    down = sorted(range(len(quads)), key=lambda i: (middle[i, 1], left[i], *stack[i].ravel(), i))
    rows: list[list[int]] = []
    for index in down:
        if rows:
            first = rows[-1][0]
            reach = 0.5 * min(height[index], height[first])
            if middle[index, 1] - middle[first, 1] < reach:
                rows[-1].append(index)
                continue
        rows.append([index])
    return [
        i for row in rows for i in sorted(row, key=lambda i: (left[i], middle[i, 1], *stack[i].ravel(), i))
    ]
