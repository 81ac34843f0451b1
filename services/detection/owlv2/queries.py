"""What is looked for, as the network compares it: vectors beside every patch's own. numpy alone.

The class head of OWLv2 scores a patch p against a query q as (cos(p, q) + shift of p) * scale of p. Everything of p
comes from the image graph; q is a phrase's embedding from the text graph, or the class embedding of a patch of another
picture. So words are no part of the graph, and pictures with different vocabularies share a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

_LEAST = np.float32(1e-6)  # what the published head adds to a length before it divides by it
_BLOCK = 512  # patches scored at a time: logits of all patches against 1,847 words would be 27 MB


@dataclass(frozen=True)
class Queries:
    """U different queries: `embeddings` (U, D) float32 of unit length, `ids` (U,) what the caller calls each."""

    embeddings: Float
    ids: NDArray[np.int64]

    @classmethod
    def of(cls, embeddings: Float, keys: Sequence[object] | None = None) -> Queries:
        """One id a row of `embeddings`, (N, D) of any length. Rows with an equal key are one query, under the id of the
        first: equals would tie, and which one wins must not depend on rounding."""
        first: dict[object, int] = {}
        for index, key in enumerate(keys if keys is not None else range(len(embeddings))):
            first.setdefault(key, index)
        ids = np.fromiter(first.values(), np.int64, len(first))
        return cls(unit(embeddings[ids]), ids)


def unit(vectors: Float) -> Float:
    """(..., D) scaled to length 1, the way the head does it."""
    scaled: Float = vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + _LEAST)
    return scaled


def best_queries(
    class_embeds: Float, logit_shift: Float, logit_scale: Float, queries: Queries
) -> tuple[Float, NDArray[np.int64]]:
    """The largest logit of each patch (P,), and the id of the query it belongs to (P,); the first of equals. Minus
    infinity, and 0, where there are no queries.

    `class_embeds`: (P, D), `logit_shift`, `logit_scale`: (P,), as the image graph gives them.
    """
    patches = len(class_embeds)
    if not len(queries.ids):
        return np.full(patches, -np.inf, np.float32), np.zeros(patches, np.int64)
    best, column = np.empty(patches, np.float32), np.empty(patches, np.intp)
    for first in range(0, patches, _BLOCK):
        part = slice(first, first + _BLOCK)
        logits = unit(class_embeds[part]) @ queries.embeddings.T
        logits += logit_shift[part, None]
        logits *= logit_scale[part, None]
        column[part] = logits.argmax(axis=1)
        best[part] = np.take_along_axis(logits, column[part, None], axis=1)[:, 0]
    return best, queries.ids[column]


def sigmoid(logits: Float) -> Float:
    """1 / (1 + exp(-x)), float32."""
    with np.errstate(over="ignore"):  # the exponential of a large number is infinite, its inverse 0, as meant
        return np.float32(1) / (np.float32(1) + np.exp(-logits))


def example_patch(class_embeds: Float, corners: Float, objectness: Float, box: Float | None) -> int:
    """Which patch of a query picture stands for what it shows.

    `class_embeds` (P, D), `corners` (P, 4) xyxy and `objectness` (P,) logits of the query picture; `box` xyxy in the
    same coordinates. Without a box the patch most like an object, as transformers does. With one, as the OWL
    authors do: of the patches whose boxes fit it at least 0.8 times as well as the best (by intersection over union,
    generalised where none meets it), the one least like the picture's average, which is background.
    """
    if box is None:
        return int(objectness.argmax())
    overlap = iou(corners, box)
    fit = overlap if overlap.max() > 0 else _generalised_iou(corners, box, overlap)
    fitting = (
        np.flatnonzero(fit >= fit.max() * np.float32(0.8)) if fit.max() > 0 else np.array([fit.argmax()])
    )
    return int(fitting[(class_embeds[fitting] @ class_embeds.mean(axis=0)).argmin()])


def iou(boxes: Float, box: Float) -> Float:
    """Intersection over union of (N, 4) xyxy boxes with one, (N,); 0 where both are empty."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    union = _area(boxes) + _area(box[None]) - shared
    ratio: Float = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def _generalised_iou(boxes: Float, box: Float, overlap: Float) -> Float:
    low, high = np.minimum(boxes[:, :2], box[:2]), np.maximum(boxes[:, 2:], box[2:])
    hull = np.prod(high - low, axis=1)
    shared_low, shared_high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    union = _area(boxes) + _area(box[None]) - np.prod(np.maximum(shared_high - shared_low, 0), axis=1)
    outside = np.divide(hull - union, hull, out=np.zeros_like(hull), where=hull > 0)
    generalised: Float = overlap - outside
    return generalised


def _area(boxes: Float) -> Float:
    sides = boxes[:, 2:] - boxes[:, :2]
    area: Float = sides[:, 0] * sides[:, 1]
    return area
