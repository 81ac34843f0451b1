"""Who owns a pixel: the sure queries compete for every pixel, and those left with too little drop out.

The rule of transformers' `compute_segments` for Mask2Former, the same in 4.38.2 and in 5.23: soft masks are multiplied
by the score of their query *before* anything is compared. So with a mask threshold of 0.95 only queries surer than
about 0.95 can survive at all, while a survivor keeps every pixel it wins, however low its mask is there; and pixels
that a dropped query won go to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.panoptic.mask2former.bilinear import Bilinear
from services.panoptic.mask2former.queries import SureQueries

NOBODY = -1


@dataclass(frozen=True)
class Claims:
    """A picture divided among queries.

    `owner`: (H, W) int16, the index of a sure query, or `NOBODY`. `survivors`: indices of those that own something,
    ascending.
    """

    owner: NDArray[np.int16]
    survivors: tuple[int, ...]


def settle_claims(
    queries: SureQueries, target: tuple[int, int], *, mask_threshold: float, overlap_threshold: float
) -> Claims:
    """Divide a picture of `target` (height, width) pixels.

    A query survives if some pixel of its weighted mask reaches `mask_threshold`, and the pixels it wins (is highest
    at; the first of equals) are more than `overlap_threshold` of those that do. One mask is held at a time.
    """
    owner = np.full(target, NOBODY, np.int16)
    highest = np.full(target, -np.inf, np.float32)
    sure_pixels = np.zeros(len(queries.scores), np.int64)
    resize = Bilinear((queries.masks.shape[1], queries.masks.shape[2]), target)
    for query, (score, mask) in enumerate(zip(queries.scores, queries.masks, strict=True)):
        weighted = resize(mask)
        weighted *= score
        sure_pixels[query] = np.count_nonzero(weighted >= np.float32(mask_threshold))
        wins = weighted > highest
        np.copyto(highest, weighted, where=wins)
        np.copyto(owner, np.int16(query), where=wins)
    won = np.bincount(owner.ravel() - NOBODY, minlength=len(sure_pixels) + 1)[1:]
    survives = _large_enough(won, sure_pixels, overlap_threshold)
    # Index -1, nobody's, is the last entry.
    owner = np.append(np.where(survives, np.arange(len(survives)), NOBODY), NOBODY).astype(np.int16)[owner]
    return Claims(owner, tuple(np.flatnonzero(survives).tolist()))


def _large_enough(
    won: NDArray[np.int64], sure: NDArray[np.int64], overlap_threshold: float
) -> NDArray[np.bool_]:
    # The share is a float32 that is compared as a float64: 4 of 5 pixels are more than 0.8, as published.
    share = won.astype(np.float32) / np.maximum(sure, 1).astype(np.float32)
    large_enough: NDArray[np.bool_] = (won > 0) & (sure > 0) & (share.astype(np.float64) > overlap_threshold)
    return large_enough
