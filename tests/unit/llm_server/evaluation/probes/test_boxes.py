"""Overlap and greedy matching."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.evaluation.probes.boxes import Box, f1, iou, matches

unit = st.floats(0, 1, allow_nan=False)
boxes = st.tuples(unit, unit, unit, unit)
several = st.lists(boxes, max_size=6)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.0, 0.0, 0.4, 0.4), (0.0, 0.0, 0.4, 0.4), 1.0),
        ((0.0, 0.0, 0.4, 0.4), (0.2, 0.0, 0.6, 0.4), 1 / 3),
        ((0.0, 0.0, 0.4, 0.4), (0.4, 0.0, 0.8, 0.4), 0.0),
        ((0.3, 0.3, 0.3, 0.3), (0.3, 0.3, 0.3, 0.3), 0.0),
        ((0.4, 0.4, 0.0, 0.0), (0.0, 0.0, 0.4, 0.4), 0.0),
    ],
)
def test_overlap(first: Box, second: Box, expected: float) -> None:
    assert iou(first, second) == pytest.approx(expected)


def test_the_best_overlap_is_paired_first_and_each_box_once() -> None:
    true = [(0.0, 0.0, 0.4, 0.4), (0.0, 0.0, 0.5, 0.4)]
    assert matches([(0.0, 0.0, 0.5, 0.4)], true) == [(0, 1)]
    assert sorted(matches([(0.0, 0.0, 0.5, 0.4), (0.0, 0.0, 0.42, 0.4)], true)) == [(0, 1), (1, 0)]


def test_f1_counts_missed_and_invented_boxes() -> None:
    true = [(0.0, 0.0, 0.2, 0.2), (0.5, 0.5, 0.9, 0.9)]
    assert f1(true, true) == 1.0
    assert f1(true[:1], true) == pytest.approx(2 / 3)
    assert f1([*true, (0.2, 0.2, 0.3, 0.3)], true) == pytest.approx(0.8)
    assert f1([], true) == 0.0
    assert f1([], []) == 1.0


@given(several, several)
def test_f1_is_between_none_and_all_whichever_way_round(said: list[Box], true: list[Box]) -> None:
    assert 0.0 <= f1(said, true) <= 1.0
    assert len(matches(said, true)) == len(matches(true, said))


@given(boxes, boxes)
def test_overlap_is_symmetric(first: Box, second: Box) -> None:
    assert iou(first, second) == pytest.approx(iou(second, first))
    assert 0.0 <= iou(first, second) <= 1.0 + 1e-9
