"""Long lines are cut where nothing is written, and say the same when they are joined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ocr.ctc import Letter, Reading
from services.ocr.long_lines import Piece, join_pieces, split_line


def written(height: int, strokes: list[tuple[int, int]]) -> np.ndarray:
    """White with a black bar for each (width of the stroke, width of the gap after it)."""
    columns = [value for stroke, gap in strokes for value in [0] * stroke + [255] * gap]
    line = np.full((height, max(len(columns), 1), 3), 255, np.uint8)
    line[2:-2, : len(columns)] = np.array(columns, np.uint8)[None, :, None]
    return line


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 20)), min_size=1, max_size=40), st.integers(1, 200)
)
def test_pieces_fit_and_are_the_whole_line(strokes: list[tuple[int, int]], most: int) -> None:
    line = written(16, strokes)

    pieces = split_line(line, most)

    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
    assert pieces[-1].end == line.shape[1]
    assert all(1 <= piece.end - piece.start <= most for piece in pieces)


def test_a_cut_lies_in_the_widest_gap_and_parts_words_there() -> None:
    line = written(20, [(30, 2), (30, 8), (12, 2), (30, 2), (30, 0)])  # gaps at 30, 62, 82, 114

    pieces = split_line(line, 90)  # the first cut lies between 67 and 90

    assert pieces == [Piece(0, 68, True), Piece(68, 146, False)]
    assert split_line(line, 40)[0] == Piece(0, 31, False)  # two columns beside twenty rows part no words


def test_a_line_without_gaps_is_cut_anyway() -> None:
    assert split_line(written(20, [(100, 0)]), 40) == [
        Piece(0, 40, False),
        Piece(40, 80, False),
        Piece(80, 100, False),
    ]


def reading(text: str, confidence: float) -> Reading:
    letters = [Letter(c, confidence, i / len(text), (i + 1) / len(text)) for i, c in enumerate(text)]
    return Reading(text, confidence, tuple(letters))


def test_joined_pieces_read_on_with_their_places() -> None:
    joined = join_pieces(
        [Piece(0, 60, True), Piece(60, 100, False)], [reading("abc", 0.6), reading("d", 1.0)]
    )

    assert joined.text == "abc d"
    assert joined.confidence == pytest.approx(0.7)
    assert [letter.text for letter in joined.letters] == list("abc d")
    assert joined.letters[0].end == pytest.approx(0.2)
    assert (joined.letters[-1].start, joined.letters[-1].end) == pytest.approx((0.6, 1.0))


def test_one_piece_is_what_it_is_and_nothing_is_nothing() -> None:
    one = reading("x", 0.4)
    assert join_pieces([Piece(0, 9, False)], [one]) is one
    nothing = join_pieces([Piece(0, 5, False), Piece(5, 9, False)], [Reading("", 0.0)] * 2)
    assert (nothing.text, nothing.confidence) == ("", 0.0)
