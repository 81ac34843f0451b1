"""Words lie where their letters were seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ocr.ctc import Letter
from services.ocr.words import words_of

FLAT = np.array([[0, 0], [1, 0], [1, 0.2], [0, 0.2]], np.float32)


def letters(text: str) -> list[Letter]:
    return [Letter(c, 0.5 + 0.5 * (i % 2), i / len(text), (i + 1) / len(text)) for i, c in enumerate(text)]


@given(st.text(alphabet="ab 中　", max_size=20))
def test_words_are_those_of_the_text(text: str) -> None:
    words = words_of(letters(text), FLAT)

    assert [word.text for word in words] == text.split()
    places = [x for word in words for x in (word.quad[0, 0], word.quad[1, 0])]
    assert places == sorted(places)
    assert all(0.5 <= word.confidence <= 1 for word in words)


def test_a_word_of_a_tilted_line_is_tilted() -> None:
    tilted = np.array([[0, 0], [8, 8], [6, 10], [-2, 2]], np.float32)

    first, second = words_of(letters("ab cd"), tilted)

    assert first.quad.tolist() == [pytest.approx(p) for p in ([0, 0], [3.2, 3.2], [1.2, 5.2], [-2, 2])]
    assert second.quad[1].tolist() == pytest.approx([8, 8])
    assert first.confidence == pytest.approx(0.75)
