"""`serving.yolo` against ultralytics itself: the same input tensor, the same boxes, the same pixels.

Random arrays, no weights: what is compared is everything around the network.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.yolo import Letterbox, decode, draw_masks, letterbox

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SIDE = st.one_of(st.integers(40, 700), st.sampled_from([427, 480, 640, 810, 1080]))


@given(SIDE, SIDE, st.booleans(), st.integers(0, 2**32 - 1))
@FEW
def test_the_network_sees_the_same_bits(height: int, width: int, rectangular: bool, seed: int) -> None:
    from ultralytics.data.augment import LetterBox

    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = np.asarray(LetterBox((640, 640), auto=rectangular, stride=32)(image=image))
    tensor, fit = letterbox(image, rectangular=rectangular)
    assert tensor.shape[1:] == expected.shape[:2] == (fit.input_height, fit.input_width)
    np.testing.assert_array_equal(np.rint(tensor * 255).astype(np.uint8).transpose(1, 2, 0), expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.001, 0.25, 0.6]), st.sampled_from([5, 300]))
@FEW
def test_the_same_detections_survive(seed: int, score: float, limit: int) -> None:
    from ultralytics.utils.nms import non_max_suppression

    rng = np.random.default_rng(seed)
    anchors = 400
    output = np.zeros((4 + 80 + 32, anchors), np.float32)
    output[:2] = rng.uniform(0, 640, (2, anchors))
    output[2:4] = rng.uniform(20, 300, (2, anchors))
    output[4:84] = rng.uniform(0, 1, (80, anchors)) ** 40
    output[84:] = rng.normal(size=(32, anchors))
    (expected,) = non_max_suppression(torch.from_numpy(output[None]), score, 0.7, max_det=limit, nc=80)
    found = decode(output, classes=80, score_threshold=score, max_detections=limit)
    np.testing.assert_allclose(found.boxes, expected[:, :4].numpy(), rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(found.scores, expected[:, 4].numpy())
    np.testing.assert_array_equal(found.labels, expected[:, 5].numpy())
    np.testing.assert_array_equal(found.coefficients, expected[:, 6:].numpy())


@given(SIDE, SIDE, st.booleans(), st.integers(0, 2**32 - 1))
@FEW
def test_the_same_pixels_are_inside(height: int, width: int, rectangular: bool, seed: int) -> None:
    from ultralytics.utils.ops import process_mask_native, scale_boxes

    rng = np.random.default_rng(seed)
    fit = Letterbox.fit(height, width, rectangular=rectangular)
    shape = (fit.input_height, fit.input_width)
    prototypes = rng.normal(size=(32, shape[0] // 4, shape[1] // 4)).astype(np.float32)
    coefficients = rng.normal(size=(6, 32)).astype(np.float32)
    corners = rng.uniform(-20, 660, (6, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    expected_boxes = torch.as_tensor(scale_boxes(shape, torch.from_numpy(boxes.copy()), (height, width)))
    picture_boxes = fit.to_picture(boxes)
    np.testing.assert_allclose(picture_boxes, expected_boxes.numpy(), atol=1e-3)
    tensors = torch.from_numpy(prototypes), torch.from_numpy(coefficients)
    expected = process_mask_native(*tensors, expected_boxes, (height, width)).numpy()  # type: ignore[no-untyped-call]
    masks = draw_masks(coefficients, prototypes, picture_boxes, fit)
    drawn = np.stack([mask.full(height, width) for mask in masks])
    # Sums in another order: a logit within rounding of the threshold may fall on either side.
    assert np.count_nonzero(drawn != expected.astype(bool)) <= 1e-4 * drawn.size
