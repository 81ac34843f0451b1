"""The runs of every segment of a partition, from one reading of it: masks as run lengths, tight boxes, areas.

Comparing a whole picture with each number in turn costs as many readings as there are segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serving.masks import Rle, encode_rle_edges


@dataclass(frozen=True)
class Runs:
    """Maximal runs of equal numbers down the columns of a segment map, sorted by number, then by position.

    `starts`, `ends`: (R,) int64, positions in the map read down its columns, ends exclusive; a run may go on at the top
    of the next column. `bounds`: (N + 1,) int64: number n has the runs `bounds[n]` to `bounds[n + 1]`. `boxes`: (N, 4)
    int64 xyxy in pixels, max exclusive, tight, zeros for a number without pixels. `areas`: (N,) int64 pixels.
    """

    height: int
    width: int
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    bounds: NDArray[np.int64]
    boxes: NDArray[np.int64]
    areas: NDArray[np.int64]

    @classmethod
    def of(cls, segment_map: NDArray[np.uint16], numbers: int) -> Self:
        """`segment_map`: (H, W) of values below `numbers`, best in Fortran order. Raises ValueError for others."""
        height, width = segment_map.shape
        starts, ends, bounds = _by_number(segment_map, numbers)
        boxes, areas = np.zeros((numbers, 4), np.int64), np.zeros(numbers, np.int64)
        there = np.flatnonzero(np.diff(bounds))
        if len(there):
            first, last = starts, ends - 1
            wraps = first // height != last // height
            by_number = bounds[there]
            boxes[there, 0] = np.minimum.reduceat(first // height, by_number)
            boxes[there, 1] = np.minimum.reduceat(np.where(wraps, 0, first % height), by_number)
            boxes[there, 2] = np.maximum.reduceat(last // height, by_number) + 1
            boxes[there, 3] = np.maximum.reduceat(np.where(wraps, height - 1, last % height), by_number) + 1
            areas[there] = np.add.reduceat(ends - starts, by_number)
        return cls(height, width, starts, ends, bounds, boxes, areas)


def segment_rles(segment_map: NDArray[np.uint16], numbers: int) -> list[Rle]:
    """The mask of every number below `numbers`, each over the whole picture. Takes and raises what `Runs.of` does."""
    height, width = segment_map.shape
    starts, ends, bounds = _by_number(segment_map, numbers)
    edges = np.stack([starts, ends], axis=1).ravel()
    masks = [edges[2 * first : 2 * end] for first, end in pairwise(bounds.tolist())]
    return encode_rle_edges(masks, height=height, width=width)


def _by_number(
    segment_map: NDArray[np.uint16], numbers: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """`starts`, `ends` and `bounds` of `Runs`."""
    pixels = segment_map.T.ravel()  # no copy in Fortran order
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]).astype(np.int64) + 1
    starts = np.concatenate([np.zeros(min(len(pixels), 1), np.int64), changes])
    ends = np.append(starts[1:], len(pixels))[: len(starts)]
    whose = pixels[starts]
    if int(whose.max(initial=0)) >= numbers:
        raise ValueError(f"the map holds {whose.max()}; its numbers are below {numbers}")
    order = np.argsort(whose, kind="stable")
    bounds = np.searchsorted(whose[order], np.arange(numbers + 1)).astype(np.int64)
    return starts[order], ends[order], bounds
