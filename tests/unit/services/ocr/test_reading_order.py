"""Top to bottom, then left to right, whatever order the lines come in."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ocr.reading_order import reading_order


def box(x: float, y: float, width: float = 80, height: float = 20) -> np.ndarray:
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], dtype=np.float32)


def test_nothing_to_read() -> None:
    assert reading_order([]) == []


@pytest.mark.parametrize(
    ("boxes", "order"),
    [
        ([box(0, 0), box(0, 40), box(0, 80)], [0, 1, 2]),
        ([box(0, 80), box(0, 0), box(0, 40)], [1, 2, 0]),
        ([box(200, 0), box(100, 3), box(0, 6)], [2, 1, 0]),  # one row, a little askew
        ([box(0, 0), box(200, 4), box(0, 30), box(200, 26)], [0, 1, 2, 3]),  # two columns, row by row
        ([box(0, 0, height=60), box(100, 0, height=12), box(100, 40, height=12)], [1, 0, 2]),
        ([box(0, i * 8, height=8) for i in range(5)], [0, 1, 2, 3, 4]),  # small print stays apart
    ],
)
def test_order(boxes: list[np.ndarray], order: list[int]) -> None:
    assert reading_order(boxes) == order


def test_a_tilted_line_does_not_swallow_the_one_below() -> None:
    lines = [cv2.boxPoints(((200, 100 + 40 * row), (300, 20), 8)).astype(np.float32) for row in (1, 0, 2)]

    assert reading_order(lines) == [1, 0, 2]


QUADS = st.lists(
    st.tuples(st.integers(0, 900), st.integers(0, 900), st.integers(5, 300), st.integers(5, 60)),
    min_size=1,
    max_size=12,
    unique=True,
)


@settings(deadline=None, max_examples=50)
@given(QUADS, st.randoms())
def test_the_order_of_arrival_does_not_matter(
    places: list[tuple[int, int, int, int]], random: object
) -> None:
    quads = [box(*place) for place in places]
    shuffled = list(range(len(quads)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    once = [quads[i].tolist() for i in reading_order(quads)]
    again = [quads[shuffled[i]].tolist() for i in reading_order([quads[i] for i in shuffled])]

    assert once == again


@settings(deadline=None, max_examples=50)
@given(QUADS, st.integers(0, 3))
def test_every_line_once_and_whichever_corner_it_begins_at(
    places: list[tuple[int, int, int, int]], start: int
) -> None:
    quads = [box(*place) for place in places]

    order = reading_order(quads)

    assert sorted(order) == list(range(len(quads)))
    assert reading_order([np.roll(quad, -start, axis=0) for quad in quads]) == order
