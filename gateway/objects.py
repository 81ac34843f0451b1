"""Whether two experts speak of the same object. Pure.

The scene graph expert lists its own objects, found by a process of its own. To speak of its relations over the
numbers of the object sentence, each of its objects is looked for among the sentence's: same name, and boxes
that overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.verbalizer import Box
from gateway.verbalizer.names import display_name

MIN_IOU = 0.5

Named = tuple[str, Box]
"""Class name, and box (normalised xyxy)."""


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, 0..1; 0 if both are empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (_area(first) + _area(second) - both)


def match(objects: Sequence[Named], base: Sequence[Named], min_iou: float = MIN_IOU) -> list[int | None]:
    """For each of `objects` its index in `base`, or None if it is not there.

    A pair has the same display name and an overlap of at least `min_iou`; the best overlap is paired first (ties:
    first in `objects`, then in `base`), and each side is used once.
    """
    names = [display_name(label).casefold() for label, _ in objects]
    others: dict[str, list[int]] = {}
    for j, (label, _) in enumerate(base):
        others.setdefault(display_name(label).casefold(), []).append(j)
    pairs = sorted(
        (-overlap, i, j)
        for i, (_, box) in enumerate(objects)
        for j in others.get(names[i], ())
        if (overlap := iou(box, base[j][1])) >= min_iou
    )
    found: list[int | None] = [None] * len(objects)
    taken: set[int] = set()
    for _, i, j in pairs:
        if found[i] is None and j not in taken:
            found[i] = j
            taken.add(j)
    return found


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
