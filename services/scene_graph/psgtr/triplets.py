"""What the network's queries say, as labels, scores and boxes. Pure functions of arrays; all floats are float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.scene_graph.psgtr.pixels import Fit, Float

MAX_TRIPLETS = 100
"""The strongest pairs of query and predicate that are looked at, as published."""

LEAST_RELATION = 0.3
"""A triplet whose predicate is no surer than this is not there at all, as published; its objects neither."""


@dataclass(frozen=True)
class Answer:
    """What Q queries said of one picture; shapes as `services.scene_graph.psgtr.network.Triplets` without the batch."""

    subject_logits: Float
    object_logits: Float
    relation_logits: Float
    subject_boxes: Float
    object_boxes: Float
    subject_masks: Float
    object_masks: Float
    fit: Fit


@dataclass(frozen=True)
class Side:
    """The subjects, or the objects, of Q queries.

    `labels`: (Q,) int64, the best class but "no object". `scores`: (Q,) its probability. `boxes`: (Q, 4) xyxy in 0-1 of
    the picture, clipped to it. `masks`: (Q, h, w) logits of the cells that hold the picture, 4 input pixels a side.
    """

    labels: NDArray[np.int64]
    scores: Float
    boxes: Float
    masks: Float


@dataclass(frozen=True)
class Strongest:
    """T triplets, strongest first. `queries`: (T,) intp. `predicates`: (T,) int64, 0-55. `scores`: (T,)."""

    queries: NDArray[np.intp]
    predicates: NDArray[np.int64]
    scores: Float

    def where(self, kept: NDArray[np.bool_]) -> Strongest:
        """Those of the rows that `kept` marks."""
        return Strongest(self.queries[kept], self.predicates[kept], self.scores[kept])


def sides(answer: Answer) -> tuple[Side, Side]:
    """The subjects and the objects."""
    return (
        _side(answer.subject_logits, answer.subject_boxes, answer.subject_masks, answer.fit),
        _side(answer.object_logits, answer.object_boxes, answer.object_masks, answer.fit),
    )


def strongest(relations: Float, limit: int = MAX_TRIPLETS) -> Strongest:
    """The `limit` strongest of all pairs of query and predicate; equals by query, then by predicate.

    `relations`: (Q, 57) probabilities, the first column "no relation". One query may be in several triplets.
    """
    predicates = relations.shape[1] - 1
    scores = relations[:, 1:].ravel()
    best = np.argsort(-scores, kind="stable")[:limit]
    return Strongest(best // predicates, (best % predicates).astype(np.int64), scores[best])


def softmax(logits: Float) -> Float:
    """Over the last axis."""
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Float = shares / shares.sum(axis=-1, keepdims=True)
    return probabilities


def _side(logits: Float, boxes: Float, masks: Float, fit: Fit) -> Side:
    probabilities = softmax(logits)[:, :-1]
    labels = probabilities.argmax(axis=1)
    scores = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    half = boxes[:, 2:] / 2
    corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    cells = masks[:, : fit.mask_rows, : fit.mask_columns]
    return Side(labels.astype(np.int64), scores, np.clip(corners, 0, 1).astype(np.float32), cells)
