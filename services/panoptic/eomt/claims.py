"""Who owns a pixel: the sure queries compete for every pixel, and those left with too little drop out. No torch.

The rule of transformers' `EomtImageProcessor.post_process_panoptic_segmentation` (5.23), which is not Mask2Former's:
mask *logits* are resized, to the input's size and then to the picture's; a pixel goes to the query whose probability
times score is highest; and of what a query wins it keeps only where its own probability, not weighted, reaches the mask
threshold. The rest is nobody's.

Arithmetic as there, in float32 and to the last digit where that decides something; but into pictures of at most 128
rows and columns together, torch resizes eight queries or more at a time and rounds a few of the last digits otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.panoptic.eomt.pixels import Float, scaled_size
from services.panoptic.mask2former.bilinear import Bilinear
from services.panoptic.mask2former.queries import best_class, sigmoid

NOBODY = -1


@dataclass(frozen=True)
class SureQueries:
    """K queries of one picture, in the network's order.

    `scores`: (K,) float32, above the threshold. `labels`: (K,) intp, none of them "no object". `masks`: (K, h, w)
    float32 logits over the square input.
    """

    scores: Float
    labels: NDArray[np.intp]
    masks: Float

    def best(self, limit: int) -> SureQueries:
        """The `limit` of the highest scores, still in the network's order."""
        rows = np.sort(np.argsort(-self.scores, kind="stable")[:limit])
        return SureQueries(self.scores[rows], self.labels[rows], self.masks[rows])


@dataclass(frozen=True)
class Claims:
    """A picture divided among queries.

    `owner`: (H, W) int16, the index of a sure query, or `NOBODY`. `survivors`: those that own something, ascending.
    `sure`: K masks (H, W) bool, where a query's probability reaches the mask threshold, whoever owns the pixel.
    """

    owner: NDArray[np.int16]
    survivors: tuple[int, ...]
    sure: tuple[NDArray[np.bool_], ...]


def sure_queries(class_logits: Float, mask_logits: Float, score_threshold: float) -> SureQueries:
    """Keep the queries whose best class is an object with a score above `score_threshold`.

    `class_logits`: (Q, classes + 1) float32, the last column "no object"; `mask_logits`: (Q, h, w) float32. Raises
    ValueError when the two disagree on Q.
    """
    if class_logits.ndim != 2 or mask_logits.ndim != 3 or len(class_logits) != len(mask_logits):
        raise ValueError(f"these are not queries: {class_logits.shape} classes, {mask_logits.shape} masks")
    scores, labels = best_class(class_logits)
    sure = np.flatnonzero((labels != class_logits.shape[1] - 1) & (scores > np.float32(score_threshold)))
    return SureQueries(scores[sure], labels[sure], mask_logits[sure])


def settle_claims(
    queries: SureQueries,
    target: tuple[int, int],
    *,
    side: int,
    mask_threshold: float,
    overlap_threshold: float,
) -> Claims:
    """Divide a picture of `target` (height, width) pixels that lay in an input of `side` x `side`.

    A query survives if it keeps a pixel, and if what it won is more than `overlap_threshold` of the pixels where it is
    sure.
    """
    owner = np.full(target, NOBODY, np.int16)
    highest = np.full(target, -np.inf, np.float32)
    sure: list[NDArray[np.bool_]] = []
    resize = _Resize(queries.masks.shape[1:], target, side)
    for query, (score, mask) in enumerate(zip(queries.scores, queries.masks, strict=True)):
        probability = sigmoid(resize(mask))
        sure.append(probability >= np.float32(mask_threshold))
        probability *= score
        wins = probability > highest
        np.copyto(highest, probability, where=wins)
        np.copyto(owner, np.int16(query), where=wins)
    survivors = []
    for query, where in enumerate(sure):
        won = owner == query
        kept = won & where
        # The share is a float32 that is compared as a float64, as published.
        share = np.float32(np.count_nonzero(won)) / np.float32(max(int(np.count_nonzero(where)), 1))
        if kept.any() and float(share) > overlap_threshold:
            survivors.append(query)
            owner[won & ~where] = NOBODY
        else:
            owner[won] = NOBODY
    return Claims(owner, tuple(survivors), tuple(sure))


class _Resize:
    """Mask logits over the input to the picture's own size: up to the input's, cut to the picture, stretched."""

    def __init__(self, cells: tuple[int, ...], target: tuple[int, int], side: int) -> None:
        self._height, self._width = scaled_size(*target, side)
        self._to_input = Bilinear((cells[0], cells[1]), (side, side))
        self._to_picture = Bilinear((self._height, self._width), target)

    def __call__(self, logits: Float) -> Float:
        return self._to_picture(self._to_input(logits)[: self._height, : self._width])
