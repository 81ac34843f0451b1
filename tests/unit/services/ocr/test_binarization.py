"""From probability maps with known rectangles back to those rectangles."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ocr.binarization import DbSettings, regions_from_map
from services.ocr.geometry import quad_size

HEIGHT, WIDTH = 320, 480
DB = DbSettings()


def draw(
    *rectangles: tuple[tuple[float, float], tuple[float, float], float], value: float = 0.9
) -> np.ndarray:
    """A map with filled rectangles given as (centre, size, degrees)."""
    canvas = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    for rectangle in rectangles:
        cv2.fillPoly(canvas, [np.rint(cv2.boxPoints(rectangle)).astype(np.int32)], value)
    return canvas


def grown(width: float, height: float) -> tuple[float, float]:
    """The sides after the published growth: area x ratio / perimeter on every side."""
    by = width * height * DB.unclip_ratio / (2 * (width + height))
    return width + 2 * by, height + 2 * by


@settings(deadline=None, max_examples=50)
@given(
    angle=st.floats(-44, 44),
    width=st.integers(60, 180),
    height=st.integers(10, 28),
    x=st.integers(160, 320),
    y=st.integers(130, 190),
)
def test_a_tilted_line_is_found_where_it_is(angle: float, width: int, height: int, x: int, y: int) -> None:
    regions = regions_from_map(draw(((x, y), (width, height), angle)), min_score=0.5, settings=DB)

    assert len(regions) == 1
    assert 0.6 < regions[0].score <= 0.9 + 1e-6  # dilation adds a rim, which a thin line feels
    assert regions[0].quad.mean(axis=0) == pytest.approx((x, y), abs=2.5)
    assert quad_size(regions[0].quad) == pytest.approx(grown(width, height), abs=9)
    upper = regions[0].quad[1] - regions[0].quad[0]
    assert np.degrees(np.arctan2(upper[1], upper[0])) == pytest.approx(angle, abs=3)


def test_corners_go_clockwise_from_the_upper_left() -> None:
    (region,) = regions_from_map(draw(((200, 100), (120, 20), 0)), min_score=0.5, settings=DB)

    (top_left, top_right, bottom_right, bottom_left) = region.quad
    assert top_left[0] < top_right[0]
    assert top_left[1] < bottom_left[1]
    assert bottom_right[0] > bottom_left[0]
    assert bottom_right[1] > top_right[1]


def test_lines_that_do_not_touch_are_apart() -> None:
    canvas = draw(((120, 60), (150, 18), 0), ((120, 120), (150, 18), 0), ((360, 90), (100, 20), 10))

    assert len(regions_from_map(canvas, min_score=0.5, settings=DB)) == 3


def test_a_map_without_text_has_no_regions() -> None:
    assert regions_from_map(np.zeros((HEIGHT, WIDTH), dtype=np.float32), min_score=0.5, settings=DB) == []


def test_a_doubtful_region_is_kept_or_dropped_by_its_score() -> None:
    canvas = draw(((200, 100), (120, 20), 0), value=0.6)

    assert len(regions_from_map(canvas, min_score=0.55, settings=DB)) == 1
    assert regions_from_map(canvas, min_score=0.65, settings=DB) == []


def test_specks_are_no_text() -> None:
    assert regions_from_map(draw(((200, 100), (1, 1), 0)), min_score=0.1, settings=DB) == []


def test_a_region_at_the_border_may_reach_over_it() -> None:
    (region,) = regions_from_map(draw(((60, 5), (140, 20), 0)), min_score=0.5, settings=DB)

    assert region.quad[:, 1].min() < 0


def test_of_too_many_regions_the_best_are_kept() -> None:
    canvas = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    for row in range(10):
        canvas[10 + 30 * row : 22 + 30 * row, 40:200] = 0.5 + 0.04 * row

    regions = regions_from_map(canvas, min_score=0.3, settings=DbSettings(max_regions=3))

    rows = sorted(round((float(region.quad[:, 1].mean()) - 16) / 30) for region in regions)
    assert rows == [7, 8, 9]
