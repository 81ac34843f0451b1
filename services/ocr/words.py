"""The words of a line: where its text has spaces, and which part of the line's quad each word takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.ocr.ctc import Letter
from services.ocr.geometry import Quad


@dataclass(frozen=True)
class Word:
    """`quad`: as the line's, in its units; `confidence`: mean of its characters."""

    text: str
    confidence: float
    quad: Quad


def words_of(letters: Sequence[Letter], quad: Quad) -> tuple[Word, ...]:
    """Split at white space. `quad`: (4, 2), corners clockwise from where the line begins.

    Where a word begins and ends is known to a step of the recogniser, a sixth of the line's height.
    """
    words: list[Word] = []
    held: list[Letter] = []
    for letter in (*letters, Letter(" ", 0.0, 1.0, 1.0)):
        if not letter.text.isspace():
            held.append(letter)
        elif held:
            words.append(_word(held, quad))
            held = []
    return tuple(words)


def _word(letters: Sequence[Letter], quad: Quad) -> Word:
    top_left, top_right, bottom_right, bottom_left = quad
    start, end = letters[0].start, letters[-1].end
    corners = [
        top_left + (top_right - top_left) * start,
        top_left + (top_right - top_left) * end,
        bottom_left + (bottom_right - bottom_left) * end,
        bottom_left + (bottom_right - bottom_left) * start,
    ]
    mean = sum(letter.confidence for letter in letters) / len(letters)
    return Word(
        "".join(letter.text for letter in letters), min(mean, 1.0), np.array(corners, dtype=np.float32)
    )
