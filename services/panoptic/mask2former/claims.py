"""Who owns a pixel: the sure queries compete for every pixel, and those left with too little drop out.

The rule of transformers' `compute_segments` for Mask2Former, the same in 4.38.2 and in 5.23: soft masks are multiplied
by the score of their query *before* anything is compared. So with a mask threshold of 0.95 only queries surer than
about 0.95 can survive at all, while a survivor keeps every pixel it wins, however low its mask is there; and pixels
that a dropped query won go to nobody.

Most pixels are settled without being computed. An interpolated value lies between the least and the greatest of the
values it is interpolated from, so the extremes of a tile of the soft masks say for a whole tile of the picture who can
win it and whether it reaches the threshold; only where that leaves more than one answer are masks resized, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.panoptic.mask2former.bilinear import Bilinear, Float
from services.panoptic.mask2former.queries import SureQueries

NOBODY = -1

_LEAST_TILE = 8  # rows and columns of a soft mask
_LEAST_PIXELS = 16  # rows and columns of the picture: smaller tiles cost more to judge than to compute
_ROUNDING = 1e-5  # share of a value that interpolating and weighting in float32 may be off by, and much more


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
    at; the first of equals) are more than `overlap_threshold` of those that do.
    """
    count = len(queries.scores)
    if not count:
        return Claims(np.full(target, NOBODY, np.int16), ())
    owner, won, sure_pixels = _contest(queries, target, np.float32(mask_threshold))
    survives = _large_enough(won, sure_pixels, overlap_threshold)
    if (won[~survives] > 0).any():
        owner = np.where(survives, np.arange(count), NOBODY).astype(np.int16)[owner]
    return Claims(owner, tuple(np.flatnonzero(survives).tolist()))


def _contest(
    queries: SureQueries, target: tuple[int, int], mask_threshold: np.float32
) -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.int64]]:
    """The winner of each pixel (H, W), and for each query the pixels it wins and those that reach the threshold."""
    count = len(queries.scores)
    source = (queries.masks.shape[1], queries.masks.shape[2])
    resize = Bilinear(source, target)
    step = max(_LEAST_TILE, *(-(-_LEAST_PIXELS * s // t) for s, t in zip(source, target, strict=True)))
    rows, columns = resize.tiles(step)
    widths = np.diff(columns)
    weight = queries.scores.astype(np.float64)[:, None, None]
    highest = _extremes(np.maximum, queries.masks, step) * weight
    lowest = _extremes(np.minimum, queries.masks, step) * weight
    # Said so that what is not a number is computed.
    may_win = ~(highest < np.fmax.reduce(lowest, axis=0) * (1 - _ROUNDING))
    all_sure = lowest >= mask_threshold * (1 + _ROUNDING)
    some_sure = ~(highest < mask_threshold * (1 - _ROUNDING)) & ~all_sure
    alone = may_win.sum(axis=0) == 1
    compute = (may_win & ~alone) | some_sure

    owner = np.empty(target, np.int16)
    won, sure_pixels = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for band, (top, bottom) in enumerate(zip(rows[:-1].tolist(), rows[1:].tolist(), strict=True)):
        if top == bottom:
            continue
        winner = np.repeat(may_win[:, band].argmax(axis=0), widths)
        owner[top:bottom] = winner  # where one is alone; elsewhere it is written over
        # What is settled cannot be won again, whoever is computed on the way to other tiles.
        best = np.broadcast_to(
            np.repeat(np.where(alone[band], np.float32(np.inf), np.float32(-np.inf)), widths),
            (bottom - top, target[1]),
        ).copy()
        for query in np.flatnonzero(compute[:, band].any(axis=1)).tolist():
            wanted = np.flatnonzero(compute[query, band])
            span = slice(int(wanted[0]), int(wanted[-1]) + 1)
            across = slice(int(columns[span.start]), int(columns[span.stop]))
            all_sure[query, band, span] = False  # they are counted here
            if across.start == across.stop:
                continue
            weighted = resize.window(queries.masks[query], slice(top, bottom), across) * queries.scores[query]
            sure_pixels[query] += np.count_nonzero(weighted >= mask_threshold)
            wins = weighted > best[:, across]
            np.copyto(best[:, across], weighted, where=wins)
            np.copyto(owner[top:bottom, across], np.int16(query), where=wins)
        sure_pixels += (bottom - top) * (all_sure[:, band] @ widths)
        won += np.bincount(owner[top:bottom].ravel(), minlength=count)
    return owner, won, sure_pixels


def _extremes(extreme: np.ufunc, masks: Float, step: int) -> NDArray[np.float64]:
    """`masks`: (K, h, w). The extreme of every tile of `step` x `step` and the row and column after it."""
    for axis in (1, 2):
        inner = (slice(None),) * axis
        tiles = masks[(*inner, slice(0, None, step))].copy()
        for offset in range(1, step + 1):
            more = masks[(*inner, slice(offset, None, step))]
            there = tiles[(*inner, slice(0, more.shape[axis]))]
            extreme(there, more, out=there)
        masks = tiles
    return masks.astype(np.float64)


def _large_enough(
    won: NDArray[np.int64], sure: NDArray[np.int64], overlap_threshold: float
) -> NDArray[np.bool_]:
    # The share is a float32 that is compared as a float64: 4 of 5 pixels are more than 0.8, as published.
    share = won.astype(np.float32) / np.maximum(sure, 1).astype(np.float32)
    large_enough: NDArray[np.bool_] = (won > 0) & (sure > 0) & (share.astype(np.float64) > overlap_threshold)
    return large_enough
