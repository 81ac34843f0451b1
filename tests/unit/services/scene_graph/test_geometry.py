"""The measures, by hand on small grids."""

from __future__ import annotations

import numpy as np
import pytest

from services.scene_graph.geometry import REACH, Measures, Scene, ramp


def measures(*masks: np.ndarray) -> Measures:
    stack = np.stack(masks).astype(np.bool_)
    height, width = stack.shape[1:]
    boxes = []
    for mask in stack:
        rows, columns = np.nonzero(mask)
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        boxes.append(np.array(corners) / [width, height, width, height])
    count = len(stack)
    return Measures(Scene(np.zeros(count, np.int64), np.ones(count), np.array(boxes), stack))


def block(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = np.zeros((40, 60), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def test_areas_and_extents() -> None:
    m = measures(block(10, 20, 5, 25), block(30, 40, 50, 60))
    np.testing.assert_allclose(m.area, [200, 100])
    np.testing.assert_allclose(m.top, [10, 30])
    np.testing.assert_allclose(m.bottom, [20, 40])
    np.testing.assert_allclose(m.width, [20, 10])
    np.testing.assert_allclose(m.height, [10, 10])
    np.testing.assert_array_equal(m.cut_below, [False, True])
    assert m.relative_area[0, 1] == 2
    assert m.shared_width[0, 1] == -25
    assert m.shared_height[0, 1] == -10
    assert m.within_box[0, 1] == 0


def test_overlap_is_of_the_subject() -> None:
    m = measures(block(0, 10, 0, 10), block(0, 10, 5, 25))
    assert m.overlap[0, 1] == 0.5
    assert m.overlap[1, 0] == 0.25
    assert m.overlap[0, 0] == 1


@pytest.mark.parametrize("gap", range(5))
def test_contact_ends_at_reach(gap: int) -> None:
    m = measures(block(10, 20, 10, 20), block(10, 20, 20 + gap, 30 + gap))
    assert (m.contact[0, 1] > 0) == (gap < REACH)
    assert m.contact[0, 1] == m.contact[1, 0]


def test_contact_is_a_share_of_the_smaller_one() -> None:
    side = measures(block(10, 20, 10, 20), block(10, 20, 20, 30)).contact[0, 1]
    corner = measures(block(10, 20, 10, 20), block(19, 29, 20, 30)).contact[0, 1]
    assert side > 0.9
    assert corner < 0.5 * side


def test_covering_is_what_stands_in_the_outline() -> None:
    """A post before a fence: the post's cells lie between the fence's, not the other way round."""
    fence, post = block(10, 30, 5, 55), block(5, 35, 25, 30)
    fence &= ~post
    m = measures(fence, post)
    assert m.covering[1, 0] == pytest.approx(20 / 30)
    assert m.covering[0, 1] == 0
    assert m.enclosed[1, 0] == pytest.approx(20 / 30)


def test_enclosed_counts_the_outlines_own_cells_covering_does_not() -> None:
    m = measures(block(0, 30, 0, 30), block(10, 20, 10, 20))
    assert m.enclosed[1, 0] == 1
    assert m.covering[1, 0] == 0


def test_depth_runs_from_the_upper_to_the_lower_edge() -> None:
    m = measures(block(0, 20, 0, 10), block(10, 30, 0, 10))
    assert m.depth_down[0, 1] == 0.5
    assert m.depth_middle[0, 1] == 0
    assert m.depth_down[1, 0] == 1.5


def test_empty_masks_measure_nothing() -> None:
    """A mask too thin for the grid has no cells; its box still counts."""
    masks = np.stack([np.zeros((40, 60), np.bool_), block(0, 40, 0, 60)])
    boxes = np.array([[0.1, 0.1, 0.1001, 0.5], [0, 0, 1, 1]])
    m = Measures(Scene(np.zeros(2, np.int64), np.ones(2), boxes, masks))
    for measure in (m.overlap, m.contact, m.covering, m.enclosed, m.relative_area):
        assert np.isfinite(measure).all()
    assert m.contact[0, 1] == 0


def test_ramp() -> None:
    values = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(ramp(values, 0.25, 0.75), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(ramp(values, 0.75, 0.25), [1, 1, 0.5, 0, 0])


def test_rows_must_agree() -> None:
    with pytest.raises(ValueError, match="one row per object"):
        Scene(np.zeros(2, np.int64), np.ones(1), np.zeros((2, 4)), np.zeros((2, 4, 4), np.bool_))
