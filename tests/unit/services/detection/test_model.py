"""The detector on an engine whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from services.detection.model import DetectionParams, Detector
from serving.engine import FakeEngine, TensorSpec

LABELS = ("cat", "dog", "bus")
PARAMS = DetectionParams(score_threshold=0.25, max_detections=10)


def engine(max_batch: int = 4, classes: int = 3) -> FakeEngine:
    """Sees two objects in every picture: a dog in the left half, and a less certain cat on the whole."""

    def compute(inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        batch, _, height, width = inputs["images"].shape
        output = np.zeros((batch, 4 + classes, 5), np.float32)
        output[:, :4, 0] = [width / 4, height / 2, width / 2, height]
        output[:, 5, 0] = 0.9
        output[:, :4, 1] = [width / 2, height / 2, width, height]
        output[:, 4, 1] = 0.5
        return {"output0": output}

    return FakeEngine(
        [TensorSpec("images", ("batch", 3, "height", "width"), "float32")],
        [TensorSpec("output0", ("batch", 4 + classes, "anchors"), "float32")],
        compute,
        max_batch=max_batch,
    )


def detect(model: Detector, image: NDArray[np.uint8], params: DetectionParams = PARAMS):  # type: ignore[no-untyped-def]
    (raw,) = model.infer([model.preprocess(image, params)])
    return model.postprocess(raw, params)


@pytest.mark.parametrize("shape", [(480, 640), (1080, 810), (33, 700), (1, 1)])
@pytest.mark.parametrize("rectangular", [True, False])
def test_boxes_are_normalised_to_the_picture(shape: tuple[int, int], rectangular: bool) -> None:
    result = detect(
        Detector(engine(), labels=LABELS, rectangular=rectangular), np.zeros((*shape, 3), np.uint8)
    )
    assert (result.height, result.width) == shape
    assert result.labels.tolist() == [1, 0]
    np.testing.assert_allclose(result.scores, [0.9, 0.5])
    np.testing.assert_allclose(result.boxes[0], [0, 0, 0.5, 1], atol=1e-5)
    np.testing.assert_allclose(result.boxes[1], [0, 0, 1, 1], atol=1e-5)


def test_params_choose_score_count_and_classes() -> None:
    model, image = Detector(engine(), labels=LABELS), np.zeros((64, 64, 3), np.uint8)
    assert detect(model, image, DetectionParams(0.6, 10)).labels.tolist() == [1]
    assert detect(model, image, DetectionParams(0.1, 1)).labels.tolist() == [1]
    assert detect(model, image, DetectionParams(0.1, 10, frozenset({0}))).labels.tolist() == [0]
    assert detect(model, image, DetectionParams(0.1, 10, frozenset())).labels.tolist() == []


def test_a_batch_comes_back_in_order() -> None:
    model = Detector(engine(), labels=LABELS)
    shapes = [(10, 20), (20, 10), (10, 20)]
    prepared = [model.preprocess(np.zeros((*shape, 3), np.uint8), PARAMS) for shape in shapes]
    results = [model.postprocess(raw, PARAMS) for raw in model.infer(prepared)]
    assert [(result.height, result.width) for result in results] == shapes


def test_warming_up_runs_the_smallest_and_the_largest_batch() -> None:
    fake = engine(max_batch=4)
    Detector(fake, labels=LABELS).warm_up()
    assert fake.batches == [1, 4]


def test_a_graph_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="80 classes, its labels are 3"):
        Detector(engine(classes=80), labels=LABELS)
