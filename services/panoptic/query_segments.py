"""From queries that were sure, and the claims among them, to the segments and instances of a result.

Claims are settled by each network's own rule (`mask2former.claims`, `eomt.claims`); what follows is the same for both.
Queries are known by their place in `labels` and `scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.panoptic.model import Instance, Segment
from services.panoptic.partition import NOBODY
from services.panoptic.runs import Runs
from serving.coco import THINGS, UNLABELLED, UNLABELLED_ID
from serving.yolo import CroppedMask


@dataclass(frozen=True)
class Said:
    """What K queries say they are. `names`: of the classes. `labels`: (K,) intp. `scores`: (K,) float32."""

    names: Sequence[str]
    labels: NDArray[np.intp]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Numbering:
    """Which segment each query is part of. `numbers`: (K + 1,) uint16, `NOBODY` for queries without one and in the last
    place. `members`: for segments 1 … N the query that stands for each."""

    numbers: NDArray[np.uint16]
    members: tuple[int, ...]


def best_first(said: Said, queries: Collection[int]) -> list[int]:
    """`queries` by falling score; equals keep the network's order."""
    return sorted(sorted(queries), key=lambda query: -said.scores[query])


def number_segments(said: Said, queries: Sequence[int], *, fuse: Collection[int] = ()) -> Numbering:
    """Number `queries` in their order; those of one label of `fuse` become one segment, for which the first stands."""
    numbers = np.full(len(said.scores) + 1, NOBODY, np.uint16)
    members: list[int] = []
    fused: dict[int, int] = {}
    for query in queries:
        label = int(said.labels[query])
        if label in fused:
            numbers[query] = fused[label]
            continue
        members.append(query)
        numbers[query] = len(members)
        if label in fuse:
            fused[label] = len(members)
    return Numbering(numbers, tuple(members))


def list_segments(
    said: Said,
    numbering: Numbering,
    segment_map: NDArray[np.uint16],
    grids: Sequence[NDArray[np.uint16]] = (),
) -> tuple[Segment, ...]:
    """The segments 1 … N of a map of their numbers, (H, W) in Fortran order, then `unlabelled` if any pixel is left.

    `grids`: further maps of the same picture, at any size; a segment that lives in one of them alone has no pixel of
    the picture, and its box is that of its cells.
    """
    runs = Runs.of(segment_map, len(numbering.members) + 1)
    height, width = segment_map.shape
    boxes = (runs.boxes / np.array([width, height] * 2)).tolist()
    shares = (runs.areas / segment_map.size).tolist()
    segments = []
    for number, query in enumerate(numbering.members, start=1):
        label = int(said.labels[query])
        box = tuple(boxes[number])
        if not shares[number]:
            box = tight_box(next(grid for grid in grids if (grid == number).any()) == number)
        segments.append(
            Segment(
                id=number,
                number=number,
                label_id=label,
                label=said.names[label],
                is_thing=label < THINGS,
                score=float(said.scores[query]),
                box=box,
                area=shares[number],
            )
        )
    if rest := shares[NOBODY]:
        box = tuple(boxes[NOBODY])
        segments.append(Segment(len(segments) + 1, NOBODY, UNLABELLED_ID, UNLABELLED, False, 0.0, box, rest))
    return tuple(segments)


def list_instances(said: Said, draw: Callable[[int], NDArray[np.bool_]]) -> tuple[Instance, ...]:
    """Every query that drew anything, best first. `draw`: its mask, (H, W) bool, before anyone competed."""
    instances = []
    for query in best_first(said, range(len(said.scores))):
        drawn = draw(query)
        if drawn.any():
            label = int(said.labels[query])
            mask = CroppedMask(0, 0, np.asfortranarray(drawn))
            instances.append(
                Instance(label, said.names[label], float(said.scores[query]), tight_box(drawn), mask)
            )
    return tuple(instances)


def tight_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """xyxy, normalised to the mask's own size, of a mask with at least one pixel."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )
