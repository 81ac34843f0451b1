"""Crayon index maps: for every cell of a panoptic grid, which class it is and which one of that class.

The two maps are the whole crayon prompt on the wire, a few kilobytes of integers; the language-model server looks
up an embedding for each (134 classes with 0 = unknown, 21 numbers with 0 = unknown). A number in the map is the number
in the sentence that goes with it: `collavo` counts by segment id, `polysight` by size.
Pure: numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.coco import COCO_PANOPTIC

CLASSES = len(COCO_PANOPTIC)
"""Classes with an embedding; index 0 of the table is "unknown", so class indices run from 1 to 133."""
MAX_ORDINAL = 20
"""Numbers with an embedding; index 0 of the table is "unknown"."""


@dataclass(frozen=True)
class GridSegment:
    """A segment of a panoptic grid: its id in the grid (1, 2, 3, ...) and its COCO panoptic label id (0..132)."""

    id: int
    label_id: int


@dataclass(frozen=True)
class NamedSegment:
    """A segment as a sentence speaks of it: its id in the grid, its spoken name, its share of the picture (0..1)."""

    id: int
    name: str
    area: float


@dataclass(frozen=True)
class CrayonMaps:
    """Two (H, W) uint8 maps, row-major like the grid: class index (label id + 1) and number within the class."""

    classes: NDArray[np.uint8]
    ordinals: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.classes.shape != self.ordinals.shape or self.classes.ndim != 2:
            raise ValueError(
                f"maps of shapes {self.classes.shape} and {self.ordinals.shape} do not belong together"
            )


def numbers_by_size(segments: Sequence[NamedSegment]) -> dict[int, int]:
    """The number of each segment, by id: within a name the largest is 1, equal ones count in the order given.

    So the sentence of the `polysight` form counts (`gateway.verbalizer.polysight`). Segments without a cell in the
    grid are counted too, because the sentence speaks of them; those that it leaves out, being too many, are the
    smallest of their name and take the numbers behind the spoken ones.
    """
    numbers: dict[int, int] = {}
    counts: dict[str, int] = {}
    for segment in sorted(segments, key=lambda one: -one.area):
        counts[segment.name] = counts.get(segment.name, 0) + 1
        numbers.setdefault(segment.id, counts[segment.name])
    return numbers


def crayon_maps(
    grid: NDArray[np.integer], segments: Sequence[GridSegment], numbers: Mapping[int, int] | None = None
) -> CrayonMaps:
    """Index maps of a panoptic grid.

    Args:
        grid: (H, W) segment ids; 0 and below is no segment.
        segments: what the ids stand for, in any order; the first entry of an id counts.
        numbers: the number of each segment within its class, by id (:func:`numbers_by_size`); 0 for one that is not
            there. None: as published, the segments of a class counted by ascending id, absent ones left out.

    A cell is unknown (0 in both maps) if it belongs to no segment, to one that is not listed, or to one whose label
    id is not a COCO panoptic class (the nameless rest of the partition). The reference crashes on the 21st segment of
    a class; here the 21st and later ones keep their class and get number 0, so that the model still sees what they
    are.
    """
    grid = np.maximum(grid, 0)
    label_ids = {segment.id: segment.label_id for segment in reversed(segments)}
    classes = np.zeros(grid.shape, np.uint8)
    ordinals = np.zeros(grid.shape, np.uint8)
    counts: dict[int, int] = {}
    for segment_id in (int(value) for value in np.unique(grid) if value):
        label_id = label_ids.get(segment_id, -1)
        if not 0 <= label_id < CLASSES:
            continue
        counts[label_id] = counts.get(label_id, 0) + 1
        number = counts[label_id] if numbers is None else numbers.get(segment_id, 0)
        cells = grid == segment_id
        classes[cells] = label_id + 1
        ordinals[cells] = number if number <= MAX_ORDINAL else 0
    return CrayonMaps(classes, ordinals)


def segment_boxes(grid: NDArray[np.integer]) -> dict[int, tuple[int, int, int, int]]:
    """Smallest box around each segment of the grid: x0, y0, x1, y1 in cells, max exclusive, by ascending id."""
    boxes: dict[int, tuple[int, int, int, int]] = {}
    for segment_id in (int(value) for value in np.unique(grid) if value > 0):
        rows, columns = np.nonzero(grid == segment_id)
        boxes[segment_id] = (
            int(columns.min()),
            int(rows.min()),
            int(columns.max()) + 1,
            int(rows.max()) + 1,
        )
    return boxes
