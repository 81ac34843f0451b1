"""Lines too long for the recogniser, cut where nothing is written and joined again.

The recogniser takes a bounded number of columns; a longer line squeezed into them loses letters. So it is cut into
pieces that fit, each cut in the emptiest place of the last quarter that a piece may have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.ocr.ctc import Letter, Reading

_LAST = 0.75  # of what fits: a cut lies beyond this share
_WORD_GAP = 0.2  # of the height: an emptiness as wide as this parts words
_INK = 12  # levels that a column's pixels differ by where something is written


@dataclass(frozen=True)
class Piece:
    """Columns `start` to `end` of a crop, and whether the text that follows begins a new word."""

    start: int
    end: int
    space_after: bool


def split_line(crop: NDArray[np.uint8], most_columns: int) -> list[Piece]:
    """Pieces of `crop` (h, w, 3), at most `most_columns` wide, in order, together all of it. One piece if it fits."""
    height, width = crop.shape[:2]
    if width <= most_columns:
        return [Piece(0, width, False)]
    grey = crop.max(axis=2)
    written = (grey.max(axis=0) - grey.min(axis=0)) > _INK
    pieces: list[Piece] = []
    start = 0
    while width - start > most_columns:
        first = start + max(int(most_columns * _LAST), 1)
        cut, gap = _emptiest(written, first, start + most_columns)
        pieces.append(Piece(start, cut, gap >= _WORD_GAP * height))
        start = cut
    pieces.append(Piece(start, width, False))
    return pieces


def join_pieces(pieces: Sequence[Piece], readings: Sequence[Reading]) -> Reading:
    """What the whole line says; the confidence is that of all characters together."""
    if len(pieces) == 1:
        return readings[0]
    width = pieces[-1].end
    text, letters = "", []
    weights = [len(reading.letters) for reading in readings]
    for piece, reading in zip(pieces, readings, strict=True):
        share, offset = (piece.end - piece.start) / width, piece.start / width
        for letter in reading.letters:
            letters.append(
                Letter(
                    letter.text, letter.confidence, offset + share * letter.start, offset + share * letter.end
                )
            )
        text += reading.text
        if piece.space_after and not text.endswith(" "):
            text += " "
            edge = piece.end / width
            letters.append(Letter(" ", 1.0, edge, edge))
    total = sum(weights)
    mean = sum(reading.confidence * weight for reading, weight in zip(readings, weights, strict=True))
    return Reading(text, min(mean / total, 1.0) if total else 0.0, tuple(letters))


def _emptiest(written: NDArray[np.bool_], first: int, last: int) -> tuple[int, int]:
    """Where to cut in [first, last), and how wide the gap there is: the widest that reaches into it, or the end."""
    empty = np.concatenate([[False], ~written, [False]])
    edges = np.flatnonzero(empty[1:] != empty[:-1])
    starts, ends = edges[::2], edges[1::2]
    there = np.flatnonzero((starts < last) & (ends > first))
    if not len(there):
        return last, 0
    widest = there[(ends - starts)[there].argmax()]
    start, end = int(starts[widest]), int(ends[widest])
    return (max(start, first) + min(end, last)) // 2, end - start
