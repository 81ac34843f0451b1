"""Whether two experts mean the same object."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.objects import MIN_IOU, iou, match

LEFT, RIGHT = (0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (LEFT, LEFT, 1.0),
        (LEFT, RIGHT, 0.0),
        ((0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0), 1 / 3),
        ((0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0), 0.0),
        ((0.2, 0.2, 0.2, 0.2), (0.2, 0.2, 0.2, 0.2), 0.0),
    ],
)
def test_iou(first: tuple[float, ...], second: tuple[float, ...], expected: float) -> None:
    assert iou(first, second) == pytest.approx(expected)  # type: ignore[arg-type]


def test_same_name_and_place_match_and_others_do_not() -> None:
    base = [("person", LEFT), ("person", RIGHT), ("bus", LEFT)]
    assert match([("person", RIGHT), ("bus", RIGHT), ("bus", LEFT), ("dog", LEFT)], base) == [
        1,
        None,
        2,
        None,
    ]


def test_names_are_compared_as_they_are_displayed() -> None:
    assert match([("Tree-merged", LEFT)], [("tree", LEFT)]) == [0]


def test_the_better_overlap_is_paired_first_and_each_side_once() -> None:
    nearly = (0.0, 0.0, 0.35, 1.0)
    assert match([("person", nearly), ("person", LEFT)], [("person", LEFT)]) == [None, 0]
    assert match([("person", LEFT), ("person", LEFT)], [("person", LEFT), ("person", LEFT)]) == [0, 1]


boxes = st.tuples(*[st.integers(0, 4)] * 4).map(
    lambda c: (min(c[0], c[2]) / 5, min(c[1], c[3]) / 5, (max(c[0], c[2]) + 1) / 5, (max(c[1], c[3]) + 1) / 5)
)
named = st.lists(st.tuples(st.sampled_from(["person", "bus"]), boxes), max_size=6)


@given(named, named)
def test_every_pair_deserves_it_and_no_pair_was_missed(
    objects: list[tuple[str, tuple[float, float, float, float]]],
    base: list[tuple[str, tuple[float, float, float, float]]],
) -> None:
    found = match(objects, base)
    taken = [place for place in found if place is not None]
    assert len(taken) == len(set(taken))
    for (label, box), place in zip(objects, found, strict=True):
        if place is not None:
            assert base[place][0] == label
            assert iou(box, base[place][1]) >= MIN_IOU
        else:
            free = [j for j in range(len(base)) if j not in taken]
            assert all(base[j][0] != label or iou(box, base[j][1]) < MIN_IOU for j in free)
