"""Crayon index maps: counting, the limit of twenty, what is unknown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gateway.crayon import (
    MAX_ORDINAL,
    CrayonMaps,
    GridSegment,
    NamedSegment,
    crayon_maps,
    numbers_by_size,
    segment_boxes,
)

grids = arrays(np.int32, (5, 7), elements=st.integers(-1, 6))
listings = st.lists(st.builds(GridSegment, st.integers(1, 6), st.integers(-1, 134)), max_size=6)


def test_numbers_count_a_class_by_ascending_segment_id() -> None:
    grid = np.array([[3, 1, 0], [2, 2, -1]])
    maps = crayon_maps(grid, [GridSegment(3, 15), GridSegment(2, 0), GridSegment(1, 15)])
    assert maps.classes.tolist() == [[16, 16, 0], [1, 1, 0]]
    assert maps.ordinals.tolist() == [[2, 1, 0], [1, 1, 0]]
    assert maps.classes.dtype == maps.ordinals.dtype == np.uint8


def test_the_twenty_first_of_a_class_keeps_its_class_and_has_no_number() -> None:
    grid = np.arange(1, 23)[None]
    maps = crayon_maps(grid, [GridSegment(i, 14) for i in range(1, 23)])
    assert maps.ordinals[0].tolist() == [*range(1, MAX_ORDINAL + 1), 0, 0]
    assert set(maps.classes[0].tolist()) == {15}


def test_numbers_by_size_count_a_name_from_its_largest_and_reach_the_map() -> None:
    segments = [NamedSegment(1, "person", 0.1), NamedSegment(2, "bus", 0.2), NamedSegment(3, "person", 0.3)]
    numbers = numbers_by_size([*segments, NamedSegment(4, "person", 0.1)])
    assert numbers == {3: 1, 2: 1, 1: 2, 4: 3}
    listed = [GridSegment(1, 0), GridSegment(2, 5), GridSegment(3, 0), GridSegment(9, 0)]
    # A segment that no sentence numbers keeps its class.
    assert crayon_maps(np.array([[1, 2, 3, 9]]), listed, numbers).ordinals.tolist() == [[2, 1, 1, 0]]
    assert crayon_maps(np.array([[1, 2, 3, 9]]), listed).ordinals.tolist() == [[1, 1, 2, 3]]


@pytest.mark.parametrize("label_id", [133, 134, -1])
def test_what_is_no_class_is_unknown_and_not_counted(label_id: int) -> None:
    maps = crayon_maps(np.array([[1, 2]]), [GridSegment(1, label_id), GridSegment(2, 132)])
    assert maps.classes.tolist() == [[0, 133]]
    assert maps.ordinals.tolist() == [[0, 1]]


def test_unlisted_segments_are_unknown_and_absent_ones_are_not_counted() -> None:
    maps = crayon_maps(np.array([[1, 4]]), [GridSegment(2, 7), GridSegment(4, 7)])
    assert maps.classes.tolist() == [[0, 8]]
    assert maps.ordinals.tolist() == [[0, 1]]


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        CrayonMaps(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))


def test_boxes_end_after_the_last_cell() -> None:
    assert segment_boxes(np.array([[0, 2, 2], [5, 2, -1]])) == {2: (1, 0, 3, 2), 5: (0, 1, 1, 2)}


@settings(max_examples=60, deadline=None)
@given(grids, listings)
def test_every_cell_is_in_the_tables_and_constant_over_a_segment(
    grid: np.ndarray[tuple[int, int], np.dtype[np.int32]], segments: list[GridSegment]
) -> None:
    maps = crayon_maps(grid, segments)
    assert maps.classes.max() <= 133
    assert maps.ordinals.max() <= MAX_ORDINAL
    assert not maps.classes[grid <= 0].any()
    assert not maps.ordinals[maps.classes == 0].any()
    for segment_id in np.unique(grid):
        assert len(np.unique(maps.classes[grid == segment_id])) == 1
        assert len(np.unique(maps.ordinals[grid == segment_id])) == 1


@settings(max_examples=60, deadline=None)
@given(grids)
def test_boxes_hold_their_segment_and_touch_it_on_every_side(
    grid: np.ndarray[tuple[int, int], np.dtype[np.int32]],
) -> None:
    for segment_id, (x0, y0, x1, y1) in segment_boxes(grid).items():
        inside = grid[y0:y1, x0:x1] == segment_id
        assert inside.sum() == (grid == segment_id).sum()
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()
