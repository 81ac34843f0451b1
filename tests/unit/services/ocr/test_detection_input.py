"""Sizes the detector sees, and the way back to the picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ocr.detection_input import STRIDE, detector_input, plan_frame
from services.ocr.pixels import resized_planes

SIDES = st.integers(1, 16384)


@settings(deadline=None, max_examples=50)
@given(height=SIDES, width=SIDES, min_side=st.integers(32, 1024), max_side=st.integers(32, 2048))
def test_every_picture_fits_the_network_and_its_bound(
    height: int, width: int, min_side: int, max_side: int
) -> None:
    frame = plan_frame(height, width, min_side=min_side, max_side=max_side)

    for side in (frame.input_width, frame.input_height):
        assert side % STRIDE == 0
        assert STRIDE <= side <= max_side


@settings(deadline=None, max_examples=50)
@given(height=SIDES, width=SIDES)
def test_the_whole_input_maps_onto_the_whole_picture(height: int, width: int) -> None:
    frame = plan_frame(height, width, min_side=736, max_side=1280)
    corners = np.array(
        [[0, 0], [frame.input_width, 0], [frame.input_width, frame.input_height], [0, frame.input_height]],
        dtype=np.float32,
    )

    assert frame.to_image(corners).tolist() == [[0, 0], [width, 0], [width, height], [0, height]]


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.lists(st.tuples(st.floats(-500, 3000), st.floats(-500, 3000)), min_size=4, max_size=4),
)
def test_nothing_maps_outside_the_picture(height: int, width: int, points: list[tuple[float, float]]) -> None:
    frame = plan_frame(height, width, min_side=736, max_side=1280)

    quad = frame.to_image(np.array(points, dtype=np.float32))

    assert quad.min() >= 0
    assert quad[:, 0].max() <= width
    assert quad[:, 1].max() <= height


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (1080, 810, (1088, 800)),  # large enough: only rounded to the stride
        (427, 640, (736, 1088)),  # enlarged until the short side has 736
        (3000, 4000, (960, 1280)),  # the long side bounds
        (10000, 20, (1280, 32)),  # a ribbon
    ],
)
def test_sizes(height: int, width: int, size: tuple[int, int]) -> None:
    frame = plan_frame(height, width, min_side=736, max_side=1280)

    assert (frame.input_height, frame.input_width) == size


def test_a_strip_is_padded_and_maps_back() -> None:
    image = np.full((40, 1600, 3), 255, dtype=np.uint8)
    frame = plan_frame(40, 1600, min_side=736, max_side=1280)

    tensor = detector_input(image, frame)

    assert frame.padded_height == 400
    rows = tensor[0, 0, :, 640] > 0
    assert rows.sum() == pytest.approx(frame.input_height * 40 / 400, abs=2)
    top, bottom = np.flatnonzero(rows)[[0, -1]]
    quad = np.array([[0, top], [1280, top], [1280, bottom + 1], [0, bottom + 1]], dtype=np.float32)
    assert frame.to_image(quad) == pytest.approx(np.array([[0, 0], [1600, 0], [1600, 40], [0, 40]]), abs=2)


def test_planes_are_blue_first_and_between_minus_one_and_one() -> None:
    image = np.zeros((8, 16, 3), dtype=np.uint8)
    image[..., 2] = 255

    planes = resized_planes(image, 16, 8)

    assert planes.dtype == np.float32
    assert planes[:, 0, 0].tolist() == [1.0, -1.0, -1.0]
    assert resized_planes(image, 32, 16).shape == (3, 16, 32)
