"""Boxes of an answer against boxes of the annotation: overlap, greedy matching, F1. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

Box: TypeAlias = tuple[float, float, float, float]
"""Normalised xyxy."""

MIN_IOU: Final = 0.5


def iou(first: Box, second: Box) -> float:
    """Intersection over union, 0..1; boxes without area overlap nothing."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (_area(first) + _area(second) - both)


def matches(said: Sequence[Box], true: Sequence[Box], min_iou: float = MIN_IOU) -> list[tuple[int, int]]:
    """Pairs (index in `said`, index in `true`) that overlap by at least `min_iou`, best first, each box used once."""
    pairs = sorted(
        (-overlap, i, j)
        for i, one in enumerate(said)
        for j, other in enumerate(true)
        if (overlap := iou(one, other)) >= min_iou
    )
    taken_said: set[int] = set()
    taken_true: set[int] = set()
    found = []
    for _, i, j in pairs:
        if i not in taken_said and j not in taken_true:
            found.append((i, j))
            taken_said.add(i)
            taken_true.add(j)
    return found


def f1(said: Sequence[Box], true: Sequence[Box], min_iou: float = MIN_IOU) -> float:
    """Harmonic mean of precision and recall of the boxes; 1 if there are none and none are said."""
    if not said and not true:
        return 1.0
    return 2 * len(matches(said, true, min_iou)) / (len(said) + len(true))


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
