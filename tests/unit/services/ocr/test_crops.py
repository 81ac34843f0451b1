"""Corners and crops: text goes in tilted, vertical or upside down and comes out flat."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ocr.crops import MAX_CROP_SIDE, crop_line, reading_quad, turn_upside_down
from services.ocr.geometry import order_corners, quad_size

UPRIGHT = np.array([[10, 20], [110, 20], [110, 50], [10, 50]], dtype=np.float32)


def flag(width: int = 120, height: int = 40) -> np.ndarray:
    """A line whose beginning is red and whose lower half is blue, so that every turn shows."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, : width // 4, 0] = 255
    image[height // 2 :, :, 2] = 255
    return image


def placed(quad: np.ndarray, size: tuple[int, int] = (300, 300)) -> np.ndarray:
    """A picture in which the flag is painted into `quad`, its beginning at the first corner."""
    line = flag()
    source = np.array([[0, 0], [120, 0], [120, 40], [0, 40]], dtype=np.float32)
    matrix = cv2.getPerspectiveTransform(source, quad.astype(np.float32))
    return np.asarray(cv2.warpPerspective(line, matrix, size), dtype=np.uint8)


def is_flag(crop: np.ndarray) -> bool:
    """Whether `crop` shows the flag the right way up."""
    height, width = crop.shape[:2]
    begin, rest = crop[:, : width // 5], crop[:, width // 3 :]
    return bool(
        begin[..., 0].mean() > 200
        and rest[..., 0].mean() < 50
        and crop[int(height * 0.6) :, :, 2].mean() > 200
        and crop[: int(height * 0.4), :, 2].mean() < 50
    )


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(4)))
def test_corners_come_out_in_one_order_whatever_the_order_they_came_in(order: list[int]) -> None:
    assert order_corners(UPRIGHT[order]).tolist() == UPRIGHT.tolist()


@settings(deadline=None, max_examples=50)
@given(
    angle=st.floats(-40, 40),
    width=st.floats(40, 200),
    height=st.floats(8, 30),
)
def test_size_of_a_rotated_rectangle(angle: float, width: float, height: float) -> None:
    quad = order_corners(cv2.boxPoints(((150, 150), (width, height), angle)))

    assert quad_size(quad) == pytest.approx((width, height), rel=1e-3)


def test_an_upright_crop_is_the_pixels_themselves() -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 140, 3), dtype=np.uint8)

    crop, vertical = crop_line(image, UPRIGHT)

    assert not vertical
    assert np.array_equal(crop, image[20:50, 10:110])


@pytest.mark.parametrize("angle", [-35, -10, 10, 35])
def test_a_tilted_line_is_laid_flat(angle: float) -> None:
    quad = order_corners(cv2.boxPoints(((150, 150), (150, 50), angle)))

    crop, vertical = crop_line(placed(quad), quad)

    assert not vertical
    assert is_flag(crop)


def test_a_trapezoid_is_rectified() -> None:
    quad = np.array([[40, 60], [260, 100], [260, 180], [40, 200]], dtype=np.float32)

    assert is_flag(crop_line(placed(quad), quad)[0])


def test_a_line_that_runs_downwards_is_turned_to_the_left() -> None:
    upper_right_first = np.array([[180, 40], [180, 240], [120, 240], [120, 40]], dtype=np.float32)

    crop, vertical = crop_line(placed(upper_right_first), order_corners(upper_right_first))

    assert vertical
    assert is_flag(crop)


@pytest.mark.parametrize(
    ("start", "vertical", "upside_down"),
    [(0, False, False), (2, False, True), (1, True, False), (3, True, True)],
)
def test_the_reading_quad_begins_where_the_line_does(start: int, vertical: bool, upside_down: bool) -> None:
    size = (60, 200) if vertical else (200, 60)
    corners = order_corners(cv2.boxPoints(((150, 150), size, 0)))
    as_read = np.roll(corners, -start, axis=0)

    crop, was_vertical = crop_line(placed(as_read), corners)
    crop = turn_upside_down(crop) if upside_down else crop

    assert was_vertical == vertical
    assert is_flag(crop)
    assert reading_quad(corners, vertical=vertical, upside_down=upside_down).tolist() == as_read.tolist()


@pytest.mark.parametrize("quad", [[[5, 5], [5, 5], [5, 5], [5, 5]], [[0, 0], [30, 0], [30, 0.2], [0, 0.2]]])
def test_a_sliver_still_gives_a_pixel(quad: list[list[float]]) -> None:
    crop, _ = crop_line(np.zeros((40, 40, 3), dtype=np.uint8), np.array(quad, dtype=np.float32))

    assert min(crop.shape[:2]) >= 1


def test_a_crop_is_bounded() -> None:
    image = np.zeros((200, 9000, 3), dtype=np.uint8)
    quad = np.array([[0, 0], [9000, 0], [9000, 200], [0, 200]], dtype=np.float32)

    crop, _ = crop_line(image, quad)

    assert max(crop.shape) == MAX_CROP_SIDE
    assert crop.shape[1] / crop.shape[0] == pytest.approx(45, rel=0.02)


def test_turning_twice_is_nothing() -> None:
    assert np.array_equal(turn_upside_down(turn_upside_down(flag())), flag())
