"""What the published systems do with odd panoptic and relation output, kept exactly, failures included.

Serving does not go this way: it uses `gateway.crayon` and the verbalizers with data that was checked on the wire.
These functions are what parity with the published prompts is measured on, so they take raw network output (grids,
segment lists, score tables) and raise `ReferenceFailure` where a published system stops with an exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.crayon import CrayonMaps, GridSegment, segment_boxes
from gateway.verbalizer.collavo import CrayonObject
from gateway.verbalizer.moai import (
    MAX_RELATIONS,
    MIN_RELATION_SCORE,
    Region,
    RelatedObject,
    Relation,
    verbalize_relations,
)
from gateway.verbalizer.names import display_name
from gateway.verbalizer.phrase import EMPTY, Box, Verbalization
from serving.coco import COCO_PANOPTIC, UNLABELLED_ID
from serving.psg import PSG_PREDICATES

VOID = UNLABELLED_ID
"""Panoptic value of pixels without a segment in the relation model's map."""
INSTANCE_OFFSET = 1000
"""A panoptic value of the relation model is label + instance * INSTANCE_OFFSET."""

DETECTION_QUERIES = 1847
"""Names the published detector is asked for: 847 of ADE20K and 1000 of ImageNet."""


class ReferenceFailure(ValueError):
    """The published system stops here. `reference_error` names the exception it stops with."""

    def __init__(self, message: str, *, reference_error: str) -> None:
        super().__init__(message)
        self.reference_error = reference_error


@dataclass(frozen=True)
class RelationOutput:
    """Output of the relation model for one image.

    Attributes:
        labels: class of each object, label id + 1.
        pairs: (R, 2) integers, subject and object as places in `labels`.
        scores: (R, 57) float32, column 0 = no relation, then the 56 predicates.
        panoptic: its own panoptic map, integers of any shape; used only for a check of the labels in it.
    """

    labels: Sequence[int]
    pairs: NDArray[np.integer]
    scores: NDArray[np.float32]
    panoptic: NDArray[np.integer]


def panoptic_arguments(height: int, width: int) -> dict[str, object]:
    """Arguments of the panoptic post-processing for a map of this size; stuff segments are not fused."""
    return {
        "target_sizes": [[height, width]],
        "threshold": 0.5,
        "mask_threshold": 0.95,
        "label_ids_to_fuse": [],
    }


def detection_arguments(height: int, width: int) -> dict[str, object]:
    """Arguments of the detector's post-processing; the verbalizer's own, higher threshold comes after it."""
    return {"threshold": 0.1, "target_sizes": [[height, width]]}


def crayon_maps(grid: NDArray[np.integer], segments: Sequence[GridSegment]) -> CrayonMaps:
    """Index maps as CoLLaVO makes them: no limit on ordinals, and a segment that is not listed takes on class and
    ordinal of the one before it (by ascending id).

    Raises:
        ReferenceFailure: the lowest segment id of the grid is not listed.
    """
    grid = np.maximum(grid, 0)
    listed = {segment.id: segment.label_id for segment in reversed(segments)}
    classes = np.zeros(grid.shape, np.int64)
    ordinals = np.zeros(grid.shape, np.int64)
    counts: dict[int, int] = {}
    label_id: int | None = None
    for segment_id in (int(value) for value in np.unique(grid) if value):
        if segment_id in listed:
            label_id = listed[segment_id]
            counts[label_id] = counts.get(label_id, 0) + 1
        if label_id is None:
            raise ReferenceFailure(
                f"segment {segment_id} is not listed and none came before it",
                reference_error="UnboundLocalError",
            )
        classes[grid == segment_id] = label_id + 1
        ordinals[grid == segment_id] = counts[label_id]
    return CrayonMaps(classes.astype(np.uint8), ordinals.astype(np.uint8))


def check_ordinals(maps: CrayonMaps, *, table_rows: int = 21) -> None:
    """The look-up in the table of numbers, as far as it can fail.

    Raises:
        ReferenceFailure: an ordinal has no row (a class with more than 20 instances).
    """
    highest = int(maps.ordinals.max(initial=0))
    if highest >= table_rows:
        raise ReferenceFailure(
            f"number {highest} is outside the table of {table_rows} rows", reference_error="IndexError"
        )


def crayon_objects(grid: NDArray[np.integer], segments: Sequence[GridSegment]) -> list[CrayonObject]:
    """Objects of the crayon sentence; none if no cell belongs to a segment.

    The i-th box by ascending segment id goes with the i-th listed segment, whatever that one's id is.

    Raises:
        ReferenceFailure: more segments are listed than the grid has, or a label id has no class.
    """
    if not (grid > 0).any():
        return []
    return [CrayonObject(label, box) for label, box in _paired(grid, segments)]


def panoptic_regions(grid: NDArray[np.integer], segments: Sequence[GridSegment]) -> list[Region]:
    """Regions of MoAI's first sentence, paired as in `crayon_objects`; any failure leaves none at all."""
    try:
        return [Region(label, box) for label, box in _paired(grid, segments)]
    except ReferenceFailure:
        return []


def _paired(grid: NDArray[np.integer], segments: Sequence[GridSegment]) -> list[tuple[str, Box]]:
    boxes = list(scaled_boxes(grid).values())
    if len(segments) > len(boxes):
        raise ReferenceFailure(
            f"{len(segments)} segments are listed, the grid has {len(boxes)}", reference_error="IndexError"
        )
    return [(_class_name(segment.label_id), box) for segment, box in zip(segments, boxes, strict=False)]


def scaled_boxes(grid: NDArray[np.integer]) -> Mapping[int, Box]:
    """Box of each segment, by ascending id: xyxy, max exclusive, times the float32 inverse of the grid's size.

    The multiplication in float32 is the reference's: 490 / 490 comes out as 0.99999994.
    """
    height, width = grid.shape
    scale = np.array([1 / width, 1 / height, 1 / width, 1 / height], np.float32)
    return {
        segment_id: box_of(np.asarray(corners, np.float32) * scale)
        for segment_id, corners in segment_boxes(grid).items()
    }


def box_of(corners: NDArray[np.float32]) -> Box:
    """(4,) float32 xyxy as a tuple of floats of the same value."""
    x0, y0, x1, y1 = (float(value) for value in corners)
    return x0, y0, x1, y1


def text_lines(result: Sequence[Any] | None) -> list[tuple[str, float]]:
    """Texts and confidences of the published OCR engine's result: a list of [polygon, [text, confidence]].

    Raises:
        ReferenceFailure: the result is None, which that engine returns for a picture without text.
    """
    if result is None:
        raise ReferenceFailure("no OCR result at all", reference_error="TypeError")
    return [(line[1][0], line[1][1]) for line in result]


def relation_sentence(output: RelationOutput, order: Sequence[int]) -> Verbalization:
    """MoAI's sentence of relations.

    Args:
        order: the strongest relations, as indices of rows, in the order to tell them (`strongest_rows` gives the
            set that the reference takes; its own order is that of numpy's argpartition).

    Returns:
        The sentence; empty where the reference swallows an exception: fewer relations than it wants to tell, or a
        relation with an object that is not there.

    Raises:
        ReferenceFailure: a label has no class (the reference does not swallow that one).
    """
    for value in np.unique(output.panoptic):
        if value != VOID:
            _class_name(int(value) % INSTANCE_OFFSET)
    objects = [RelatedObject(display_name(_class_name(label - 1))) for label in output.labels]
    if len(output.scores) < min(MAX_RELATIONS, len(objects)):
        return EMPTY
    table = output.scores[:, 1:]
    relations = [
        Relation(
            int(output.pairs[row][0]),
            PSG_PREDICATES[int(table[row].argmax())],
            int(output.pairs[row][1]),
            float(table[row].max()),
        )
        for row in order
    ]
    try:
        return verbalize_relations(objects, relations, min_score=MIN_RELATION_SCORE)
    except IndexError:
        return EMPTY


def strongest_rows(output: RelationOutput) -> list[int]:
    """Rows of the relations the reference tells, strongest first: min(10, number of labels) of them, or fewer."""
    strength = output.scores[:, 1:].max(axis=1, initial=0.0)
    return [
        int(row) for row in np.argsort(-strength, kind="stable")[: min(MAX_RELATIONS, len(output.labels))]
    ]


def _class_name(label_id: int) -> str:
    """Class name; a negative id counts from the end, as a look-up in a Python list does.

    Raises:
        ReferenceFailure: there is no such class.
    """
    if not -len(COCO_PANOPTIC) <= label_id < len(COCO_PANOPTIC):
        raise ReferenceFailure(f"label id {label_id} has no class", reference_error="IndexError")
    return COCO_PANOPTIC[label_id]
