"""Answers of a PSGTR network, made up: whoever tests what becomes of them says what each query saw and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from services.scene_graph.predicates import PREDICATE_IDS
from services.scene_graph.psgtr.pixels import Fit
from services.scene_graph.psgtr.triplets import Answer
from serving.coco import COCO_PANOPTIC

Seen = tuple[str, float, tuple[int, int, int, int]]
"""Class, score, and the cells its mask fills: x0, y0, x1, y1 of a grid of 20 x 20."""

Triplet = tuple[Seen, str, float, Seen]
"""Subject, predicate, the predicate's score, object."""

CELLS = 20


@pytest.fixture
def answer() -> Callable[[Sequence[Triplet]], Answer]:
    """An answer of one query a triplet, for a picture of 400 x 200 (width x height) pixels."""
    return _answer


def _answer(triplets: Sequence[Triplet]) -> Answer:
    count = len(triplets)
    subjects = [subject for subject, _, _, _ in triplets]
    objects = [object_ for _, _, _, object_ in triplets]
    relations = np.zeros((count, 57), np.float32)
    for row, (_, predicate, score, _) in zip(relations, triplets, strict=True):
        row[:] = np.log((1 - score) / 56)
        row[PREDICATE_IDS[predicate] + 1] = np.log(score)
    return Answer(
        subject_logits=_classes(subjects),
        object_logits=_classes(objects),
        relation_logits=relations,
        subject_boxes=_boxes(subjects),
        object_boxes=_boxes(objects),
        subject_masks=_masks(subjects),
        object_masks=_masks(objects),
        fit=Fit(200, 400, CELLS * 4, CELLS * 4, 96, 96),
    )


def _classes(seen: Sequence[Seen]) -> NDArray[np.float32]:
    logits = np.zeros((len(seen), len(COCO_PANOPTIC) + 1), np.float32)
    for row, (label, score, _) in zip(logits, seen, strict=True):
        row[:] = np.log((1 - score) / len(COCO_PANOPTIC))
        row[COCO_PANOPTIC.index(label)] = np.log(score)
    return logits


def _boxes(seen: Sequence[Seen]) -> NDArray[np.float32]:
    corners = np.array([where for _, _, where in seen], np.float32).reshape(-1, 4) / CELLS
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)


def _masks(seen: Sequence[Seen]) -> NDArray[np.float32]:
    masks = np.full((len(seen), 24, 24), -9, np.float32)
    for mask, (_, score, (x0, y0, x1, y1)) in zip(masks, seen, strict=True):
        mask[y0:y1, x0:x1] = 5 + score
    masks[:, CELLS:] = masks[:, :, CELLS:] = 99  # padding: whoever looks there is wrong
    return masks
