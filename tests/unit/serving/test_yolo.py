"""Letterboxing, decoding, suppression and masks, from their definitions; equality with the trainer is in
tests/parity.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.engine import FakeEngine, TensorSpec
from serving.yolo import (
    STRIDE,
    CroppedMask,
    Detections,
    Letterbox,
    decode,
    draw_masks,
    letterbox,
    run_batch,
    suppress,
)

SIZES = st.integers(1, 3000)


@given(SIZES, SIZES, st.booleans())
def test_a_letterbox_fits_its_picture(height: int, width: int, rectangular: bool) -> None:
    fit = Letterbox.fit(height, width, rectangular=rectangular)
    assert fit.input_height % STRIDE == fit.input_width % STRIDE == 0
    assert max(fit.input_height, fit.input_width) == 640
    assert max(fit.scaled_height, fit.scaled_width) == 640
    assert 0 <= fit.top <= fit.input_height - fit.scaled_height
    assert 0 <= fit.left <= fit.input_width - fit.scaled_width
    if rectangular:
        assert fit.input_height - fit.scaled_height < STRIDE
        assert fit.input_width - fit.scaled_width < STRIDE
    else:
        assert fit.input_height == fit.input_width == 640


@given(st.integers(20, 3000), st.integers(20, 3000), st.booleans())
def test_boxes_come_back_to_the_picture(height: int, width: int, rectangular: bool) -> None:
    fit = Letterbox.fit(height, width, rectangular=rectangular)
    y1, x1 = fit.top + fit.scaled_height, fit.left + fit.scaled_width
    whole = np.array([[fit.left, fit.top, x1, y1], [-99, -99, 9999, 9999]], np.float32)
    back = fit.to_picture(whole)
    np.testing.assert_allclose(back[0], [0, 0, width, height], rtol=1e-5)
    np.testing.assert_array_equal(back[1], [0, 0, width, height])


def test_a_letterboxed_picture_is_scaled_centred_and_padded_with_grey() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, :, 0] = 255
    tensor, fit = letterbox(image, rectangular=False)
    assert tensor.shape == (3, 640, 640)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert (fit.top, fit.left, fit.scaled_height, fit.scaled_width) == (160, 0, 320, 640)
    np.testing.assert_array_equal(tensor[:, :160], np.float32(114 / 255))
    np.testing.assert_array_equal(tensor[:, 480:], np.float32(114 / 255))
    np.testing.assert_array_equal(tensor[0, 160:480], 1)
    np.testing.assert_array_equal(tensor[1:, 160:480], 0)


Row = tuple[tuple[float, float, float, float], int, float]


def raw_output(rows: list[Row], classes: int = 3) -> NDArray[np.float32]:
    """(4 + classes + 2, N): (cx, cy, w, h) with one class score each; coefficients hold the row number."""
    output = np.zeros((4 + classes + 2, len(rows)), np.float32)
    for index, (box, label, score) in enumerate(rows):
        output[:4, index] = box
        output[4 + label, index] = score
        output[4 + classes :, index] = index
    return output


ROWS: list[Row] = [
    ((50, 50, 20, 20), 0, 0.5),
    ((51, 50, 20, 20), 0, 0.9),  # the better of two of one class: the first goes
    ((51, 50, 20, 20), 1, 0.8),  # the same place, another class: both stay
    ((150, 50, 20, 40), 2, 0.3),
    ((250, 50, 20, 20), 2, 0.1),
]


def test_decoding_keeps_the_best_of_each_class_and_place() -> None:
    found = decode(raw_output(ROWS), classes=3, score_threshold=0.25, max_detections=10)
    assert found.labels.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.3])
    np.testing.assert_allclose(found.boxes[0], [41, 40, 61, 60])
    np.testing.assert_allclose(found.boxes[2], [140, 30, 160, 70])
    assert found.coefficients[:, 0].tolist() == [1, 2, 3]


def test_decoding_stops_at_the_limit_and_at_the_classes_asked_for() -> None:
    assert decode(raw_output(ROWS), classes=3, score_threshold=0.25, max_detections=1).labels.tolist() == [0]
    only = np.array([False, True, True])
    found = decode(raw_output(ROWS), classes=3, score_threshold=0.05, max_detections=2, allowed=only)
    assert found.labels.tolist() == [1, 2]


def test_nothing_found_is_no_rows() -> None:
    found = decode(raw_output(ROWS), classes=3, score_threshold=0.95, max_detections=10)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.coefficients.shape == (0, 2)


def test_arrays_of_different_lengths_are_refused() -> None:
    boxes, scores = np.zeros((2, 4), np.float32), np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="one row per detection"):
        Detections(boxes, scores, np.zeros(1, np.int64), np.zeros((2, 0), np.float32))


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    extent = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    shared = extent[0] * extent[1]
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return float(shared / union) if union > 0 else 0.0


BOX = st.tuples(
    st.integers(0, 40), st.integers(0, 40), st.integers(1, 30), st.integers(1, 30), st.integers(0, 1)
)


@given(st.lists(BOX, max_size=25), st.integers(1, 25))
@settings(deadline=None)
def test_suppression_is_greedy(rows: list[tuple[int, int, int, int, int]], limit: int) -> None:
    """Against the definition: in order, a row stays unless one of its class that stays overlaps it too much."""
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in rows], np.float32).reshape(-1, 4)
    labels = np.array([row[4] for row in rows], np.int64)
    scores = np.linspace(1, 0, len(rows), dtype=np.float32)
    found = Detections(boxes, scores, labels, np.zeros((len(rows), 0), np.float32))
    expected: list[int] = []
    for row in range(len(rows)):
        if all(labels[row] != labels[kept] or iou(boxes[row], boxes[kept]) <= 0.5 for kept in expected):
            expected.append(row)
    assert suppress(found, iou_threshold=0.5, max_detections=limit).tolist() == expected[:limit]


def test_a_mask_lies_where_its_prototype_is_positive_and_inside_its_box() -> None:
    fit = Letterbox.fit(480, 640)
    prototypes = np.full((1, 120, 160), -4, np.float32)
    prototypes[0, :, :80] = 4  # the left half of the picture
    boxes = np.array([[0, 0, 640, 480], [100.5, 50, 200, 150], [400, 300, 500, 400]], np.float32)
    whole, inside, outside = draw_masks(np.ones((3, 1), np.float32), prototypes, boxes, fit)
    expected = np.zeros((480, 640), np.bool_)
    expected[:, :320] = True
    np.testing.assert_array_equal(whole.full(480, 640), expected)
    assert (inside.top, inside.left, inside.pixels.shape) == (50, 101, (100, 99))
    assert inside.pixels.all()
    assert not outside.pixels.any()


@pytest.mark.parametrize(("threshold", "all_true"), [(0.0, True), (0.2, True), (0.9, False), (1.0, False)])
def test_the_mask_threshold_is_a_probability(threshold: float, all_true: bool) -> None:
    prototypes = np.zeros((1, 160, 160), np.float32)  # logit 0: probability one half
    box = np.array([[10, 10, 20, 20]], np.float32)
    (mask,) = draw_masks(
        np.ones((1, 1), np.float32), prototypes, box, Letterbox.fit(640, 640), threshold=threshold
    )
    assert mask.pixels.all() == all_true
    assert mask.pixels.any() == all_true


def test_no_detections_no_masks() -> None:
    empty = np.zeros((0, 1), np.float32), np.zeros((1, 160, 160), np.float32), np.zeros((0, 4), np.float32)
    assert draw_masks(*empty, Letterbox.fit(640, 640)) == []


def test_an_empty_box_has_an_empty_mask() -> None:
    box = np.array([[10.2, 10.2, 10.4, 10.4]], np.float32)
    (mask,) = draw_masks(
        np.ones((1, 1), np.float32), np.ones((1, 160, 160), np.float32), box, Letterbox.fit(640, 640)
    )
    assert mask.pixels.size == 0
    assert not mask.full(640, 640).any()


def test_a_cropped_mask_knows_its_window() -> None:
    mask = CroppedMask(2, 3, np.ones((4, 5), np.bool_))
    assert mask.window() == (slice(2, 6), slice(3, 8))
    assert mask.full(10, 10).sum() == 20


def test_a_batch_of_mixed_shapes_is_run_by_shape_and_returned_in_order() -> None:
    def mean(inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return {"output0": inputs["images"].mean(axis=(1, 2, 3), keepdims=False)[:, None]}

    engine = FakeEngine(
        [TensorSpec("images", ("batch", 3, "height", "width"), "float32")],
        [TensorSpec("output0", ("batch", 1), "float32")],
        mean,
        max_batch=2,
    )
    shapes = [(3, 32, 64), (3, 64, 32), (3, 32, 64), (3, 32, 64), (3, 64, 32)]
    results = run_batch(engine, [np.full(shape, index, np.float32) for index, shape in enumerate(shapes)])
    assert [float(result["output0"][0]) for result in results] == [0, 1, 2, 3, 4]
    assert sorted(engine.batches) == [1, 2, 2]
