"""From triplets to a graph, as MoAI's copy of OpenPSG does it, quirks included.

Written from `openpsg/models/relation_heads/psgtr_head.py` and `moai/utils/utils.py` of ByungKwanLee/MoAI. What is odd
about it: class 131 (`wall-other-merged`) is dropped, by a comparison that is off by one; of a query with two predicates
both rows tell its strongest; objects are what is left of them after every pixel went to the highest mask; the relations
are told in the order in which numpy's `argpartition` leaves them, which differs between versions of numpy and between
processors, and not at all if there are fewer than wanted. One thing is not repeated: there, mask logits are rounded to
bfloat16 first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.scene_graph.model import SceneGraph, SceneGraphParams
from services.scene_graph.psgtr.masks import SURE, Bool, overlaps
from services.scene_graph.psgtr.pixels import SQUASHED, Float
from services.scene_graph.psgtr.triplets import LEAST_RELATION, Answer, Side, sides, softmax, strongest
from services.scene_graph.rules import Relation
from serving.coco import THINGS
from serving.yolo import CroppedMask

DROPPED = 131
"""The class that the published comparison takes for "no object"."""

_SAME = 0.5


@dataclass(frozen=True)
class Segments:
    """The picture divided among N segments, and R relations between them.

    `cells`: (h, w) intp, whose a cell is; -1 where no pixel reads the cell. `labels`: (N,) int64. `scores`: (N,) of the
    query that each segment began with. `pairs`: (R, 2) int64, segments. `relations`: (R, 57) probabilities, the first
    column "no relation".
    """

    cells: NDArray[np.intp]
    labels: NDArray[np.int64]
    scores: Float
    pairs: NDArray[np.int64]
    relations: Float


def reference_graph(answer: Answer, params: SceneGraphParams) -> SceneGraph:
    """Objects in the published order, relations in that of `argpartition`.

    A relation of one object with itself, which the published system tells, is left out: no reply may hold one.
    """
    fit = answer.fit
    rows = nearest(fit.mask_rows, SQUASHED[0])
    columns = nearest(fit.mask_columns, SQUASHED[1])
    weights = np.outer(
        np.bincount(rows, minlength=fit.mask_rows), np.bincount(columns, minlength=fit.mask_columns)
    )
    segments = divide(answer, weights.astype(np.float32), params.object_threshold)
    # The published map is 490 x 490; the reply's masks are of the picture as sent.
    picture = np.ix_(rows[_middles(fit.height, SQUASHED[0])], columns[_middles(fit.width, SQUASHED[1])])
    drawn = [_cropped(segments.cells[picture] == number) for number in range(len(segments.labels))]
    told = []
    for row in published_order(
        segments.relations, len(segments.labels), limit=params.max_relations, least=params.relation_threshold
    ).tolist():
        subject, object_ = segments.pairs[row].tolist()
        probabilities = segments.relations[row, 1:]
        if subject != object_:
            told.append(Relation(subject, object_, int(probabilities.argmax()), float(probabilities.max())))
    sides_of = np.array([fit.width, fit.height] * 2, np.float32)
    return SceneGraph(
        height=fit.height,
        width=fit.width,
        labels=segments.labels,
        scores=segments.scores,
        boxes=np.array([_box(mask) for mask in drawn], np.float32).reshape(-1, 4) / sides_of,
        masks=tuple(drawn),
        relations=tuple(told),
    )


def published_order(relations: Float, objects: int, *, limit: int, least: float) -> NDArray[np.intp]:
    """Rows of `relations` to tell, in the order to tell them.

    `relations`: (R, 57) probabilities, the first column "no relation". The `limit` strongest, or as many as there are
    `objects` if those are fewer; of them, those of at least `least`. None at all if R is smaller than that number:
    there the published system fails, and swallows its failure.
    """
    wanted = min(limit, objects)
    if wanted == 0 or len(relations) < wanted:
        return np.zeros(0, np.intp)
    scores = relations[:, 1:].max(axis=1)
    order = np.argpartition(scores, -wanted)[-wanted:]
    # As published: the values of `partition` choose among the rows of `argpartition`, as if both were in one order.
    values = np.partition(scores, -wanted)[-wanted:]
    rows: NDArray[np.intp] = order[values >= np.float32(least)]
    return rows


def divide(answer: Answer, weights: Float, object_threshold: float) -> Segments:
    """Every cell to the triplet's side whose mask is highest there; then sides that are one thing are one segment.

    `weights`: (h, w), how many pixels of the published map read a cell.
    """
    subjects, objects = sides(answer)
    relations = softmax(answer.relation_logits)
    found = strongest(relations)
    first = _at(subjects, found.queries)
    second = _at(objects, found.queries)
    kept = ~_repeated(first, second, found.predicates, weights)
    kept &= (first.labels != DROPPED) & (second.labels != DROPPED)
    kept &= np.minimum(first.scores, second.scores) > np.float32(object_threshold)
    kept &= found.scores > np.float32(LEAST_RELATION)
    queries = found.queries[kept]
    both = [_at(side, queries) for side in (subjects, objects)]
    labels = np.concatenate([side.labels for side in both])
    scores = np.concatenate([side.scores for side in both])
    masks = np.concatenate([side.masks for side in both])
    if not len(queries):
        nobody = np.full(weights.shape, -1, np.intp)
        return Segments(nobody, labels, scores, np.zeros((0, 2), np.int64), relations[queries])
    first_of = _first_of_kin(labels, masks > SURE, weights)
    owner = first_of[masks.argmax(axis=0)]
    pairs = first_of.reshape(2, -1).T
    left = np.unique(owner[weights > 0])
    seen = np.isin(pairs, left).all(axis=1)
    return Segments(
        cells=np.where(np.isin(owner, left), np.searchsorted(left, owner), -1),
        labels=labels[left],
        scores=scores[left],
        pairs=np.searchsorted(left, pairs[seen]).astype(np.int64),
        relations=relations[queries[seen]],
    )


def nearest(cells: int, size: int) -> NDArray[np.intp]:
    """(size,): which of `cells` each of `size` pixels reads, as torch's nearest interpolation has it."""
    scale = np.float32(cells) / np.float32(size)
    return np.minimum((np.arange(size, dtype=np.float32) * scale).astype(np.intp), cells - 1)


def _at(side: Side, queries: NDArray[np.intp]) -> Side:
    return Side(side.labels[queries], side.scores[queries], side.boxes[queries], side.masks[queries])


def _repeated(first: Side, second: Side, predicates: NDArray[np.int64], weights: Float) -> Bool:
    """(T,): triplets that say the same words as a stronger one of masks that both overlap by more than half."""
    repeated = np.zeros(len(predicates), np.bool_)
    words = np.stack([first.labels, second.labels, predicates], axis=1)
    for group in np.unique(words, axis=0):
        left = np.flatnonzero((words == group).all(axis=1))
        while len(left) > 1:
            base, left = left[0], left[1:]
            same = np.ones(len(left), np.bool_)
            for side in (first, second):
                same &= overlaps(side.masks[base] > SURE, side.masks[left] > SURE, weights) > _SAME
            repeated[left[same]] = True
            left = left[~same]
    return repeated


def _first_of_kin(labels: NDArray[np.int64], sure: Bool, weights: Float) -> NDArray[np.intp]:
    """(N,): the first of those that are one with each: all of a kind of stuff, and things that overlap."""
    first_of = np.arange(len(labels))
    for label in np.unique(labels):
        left = np.flatnonzero(labels == label)
        while len(left):
            base, left = left[0], left[1:]
            same = np.ones(len(left), np.bool_)
            if label < THINGS:
                same = overlaps(sure[base], sure[left], weights) > _SAME
            first_of[left[same]] = base
            left = left[~same]
    return first_of


def _middles(size: int, others: int) -> NDArray[np.intp]:
    """(size,): which of `others` pixels lies at the middle of each of `size`."""
    return np.minimum(((np.arange(size) + 0.5) * (others / size)).astype(np.intp), others - 1)


def _cropped(mask: Bool) -> CroppedMask:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):  # a picture of few pixels need not show every segment
        return CroppedMask(0, 0, np.zeros((0, 0), np.bool_))
    window = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return CroppedMask(int(rows[0]), int(columns[0]), np.asfortranarray(window))


def _box(mask: CroppedMask) -> list[int]:
    """xyxy in pixels, max exclusive."""
    height, width = mask.pixels.shape
    return [mask.left, mask.top, mask.left + width, mask.top + height]
