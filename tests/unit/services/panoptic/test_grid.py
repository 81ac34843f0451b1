"""The coarse grid agrees with the map it is made from."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from services.panoptic.grid import index_grid

MAPS = hnp.arrays(np.uint16, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 5))
CELLS = st.integers(1, 50)


@given(MAPS, CELLS, CELLS)
def test_a_cell_holds_a_number_that_its_part_of_the_picture_holds(
    segment_map: NDArray[np.uint16], rows: int, columns: int
) -> None:
    grid = index_grid(segment_map, rows, columns)
    assert grid.shape == (rows, columns)
    assert grid.dtype == np.uint16
    height, width = segment_map.shape
    for row in range(rows):
        y0, y1 = row * height // rows, -(-(row + 1) * height // rows)
        for column in range(columns):
            x0, x1 = column * width // columns, -(-(column + 1) * width // columns)
            assert grid[row, column] in segment_map[y0:y1, x0:x1]


@given(MAPS, CELLS, CELLS)
def test_a_uniform_picture_has_a_uniform_grid(
    segment_map: NDArray[np.uint16], rows: int, columns: int
) -> None:
    segment_map[:] = 3
    assert (index_grid(segment_map, rows, columns) == 3).all()


@given(MAPS)
def test_at_full_resolution_the_grid_is_the_map(segment_map: NDArray[np.uint16]) -> None:
    np.testing.assert_array_equal(index_grid(segment_map, *segment_map.shape), segment_map)


@given(hnp.arrays(np.uint16, (24, 32), elements=st.integers(0, 3)))
def test_whole_cells_go_to_the_majority(segment_map: NDArray[np.uint16]) -> None:
    grid = index_grid(segment_map, 6, 8)
    for row in range(6):
        for column in range(8):
            cell = segment_map[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
            votes = np.bincount(cell.ravel(), minlength=4)
            best = int(votes[1:].argmax()) + 1
            assert grid[row, column] == (best if votes[best] >= max(votes[0], 1) else 0)


def test_ties_go_to_the_better_segment_and_never_to_nobody() -> None:
    assert index_grid(np.array([[0, 2], [1, 1]], np.uint16), 1, 1).tolist() == [[1]]
    assert index_grid(np.array([[0, 2]], np.uint16), 1, 1).tolist() == [[2]]
    assert index_grid(np.array([[2, 1]], np.uint16), 1, 1).tolist() == [[1]]
    assert index_grid(np.array([[0, 0, 2]], np.uint16), 1, 1).tolist() == [[0]]


def test_many_cells_and_segments_are_counted_in_blocks() -> None:
    cells = np.random.default_rng(1).integers(0, 900, (300, 300)).astype(np.uint16)
    np.testing.assert_array_equal(index_grid(np.kron(cells, np.ones((2, 2), np.uint16)), 300, 300), cells)
