"""From instances that may overlap to a partition: every pixel of the picture in exactly one segment.

Instances claim their pixels in the order of their scores; a pixel stays with the first that claims it. An instance of
whose mask less than a given share is left by then is dropped as a whole, and what was left of it goes to whoever claims
it next, else it is unlabelled: so a second guess at an object that is already there leaves no fringe behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.yolo import CroppedMask

NOBODY = 0
"""The number in a segment map of a pixel that no instance claims."""


@dataclass(frozen=True)
class Partition:
    """N segments and who is left over.

    `segment_map`: (H, W) uint16 in Fortran order (masks are read down the columns), `NOBODY` or 1 … N. `members`: the
    indices of the instances that became segments 1 … N. `boxes`: (N + 1, 4) int64, tight xyxy boxes in pixels, max
    exclusive, of the numbers 0 … N (zeros if nobody's pixels are none); `areas`: (N + 1,) int64, their pixels.
    """

    segment_map: NDArray[np.uint16]
    members: tuple[int, ...]
    boxes: NDArray[np.int64]
    areas: NDArray[np.int64]


def partition(
    masks: Sequence[CroppedMask], height: int, width: int, *, overlap_threshold: float
) -> Partition:
    """Resolve overlaps. `masks` are ordered best first, over a picture of `height` x `width` pixels.

    An instance becomes a segment if at least one pixel, and at least the share `overlap_threshold` of its mask, is
    still free when its turn comes.
    """
    segment_map = np.full((height, width), NOBODY, np.uint16, order="F")
    members: list[int] = []
    boxes: list[tuple[int, int, int, int]] = []
    areas: list[int] = []
    for index, mask in enumerate(masks):
        window = segment_map[mask.window()]
        free = mask.pixels & (window == NOBODY)
        left = int(np.count_nonzero(free))
        if left and left >= overlap_threshold * np.count_nonzero(mask.pixels):
            members.append(index)
            window[free] = len(members)
            boxes.append(_tight_box(free, mask.top, mask.left))
            areas.append(left)
    nobody = segment_map == NOBODY
    boxes.insert(NOBODY, _tight_box(nobody, 0, 0))
    areas.insert(NOBODY, height * width - sum(areas))
    return Partition(segment_map, tuple(members), np.array(boxes, np.int64), np.array(areas, np.int64))


def _tight_box(mask: NDArray[np.bool_], top: int, left: int) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1
