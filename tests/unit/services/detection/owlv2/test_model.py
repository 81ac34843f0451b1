"""The detector on an engine whose answer is known: where boxes lie, which stay, in which order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.detection.model import DetectionResult
from services.detection.owlv2.model import Owlv2Detector, Owlv2Params
from services.detection.owlv2.queries import Queries
from serving.engine import FakeEngine, TensorSpec

SIDE = 16
# Centre x, centre y, width, height as shares of the padded square.
BOXES = np.array(
    [[0.25, 0.25, 0.5, 0.5], [0.25, 0.2, 0.5, 0.4], [0.05, 0.1, 0.2, 0.2], [0.5, 0.9, 0.2, 0.1]], np.float32
)
OBJECTNESS = np.array([0, 2, 4, 6], np.float32)
EMBEDS = np.array([[1, 0], [1, 0.1], [0, 1], [1, 0]], np.float32)
CAT_AND_DOG = Queries.of(np.eye(2, dtype=np.float32))


def engine(max_batch: int = 4) -> FakeEngine:
    """Sees the four boxes in every picture; a patch is the surer the later it comes."""

    def compute(inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        batch = len(inputs["pixel_values"])
        said = {
            "class_embeds": EMBEDS,
            "logit_shift": np.zeros(4, np.float32),
            "logit_scale": np.arange(1, 5, dtype=np.float32),
            "boxes": BOXES,
            "objectness": OBJECTNESS,
        }
        return {name: np.stack([value] * batch) for name, value in said.items()}

    shapes = {
        "class_embeds": (4, 2),
        "logit_shift": (4,),
        "logit_scale": (4,),
        "boxes": (4, 4),
        "objectness": (4,),
    }
    return FakeEngine(
        [TensorSpec("pixel_values", ("batch", 3, SIDE, SIDE), "float32")],
        [TensorSpec(name, ("batch", *shape), "float32") for name, shape in shapes.items()],
        compute,
        max_batch=max_batch,
    )


def detect(height: int, width: int, params: Owlv2Params) -> DetectionResult:
    model = Owlv2Detector(engine(), labels=("cat", "dog"))
    (raw,) = model.infer([model.preprocess(np.zeros((height, width, 3), np.uint8), params)])
    return model.postprocess(raw, params)


def test_boxes_are_put_from_the_padded_square_into_the_picture_and_clipped() -> None:
    """Twice as wide as high: a share of the square is two shares of the height."""
    found = detect(20, 40, Owlv2Params(0, 10, queries=CAT_AND_DOG))
    assert (found.height, found.width) == (20, 40)
    np.testing.assert_allclose(
        found.boxes, [[0, 0, 0.15, 0.4], [0, 0, 0.5, 0.8], [0, 0, 0.5, 1]], atol=1e-6
    )  # the one in the padding is gone
    assert found.labels.tolist() == [1, 0, 0]
    assert found.objectness is not None
    np.testing.assert_allclose(found.objectness, 1 / (1 + np.exp(-OBJECTNESS[[2, 1, 0]])), rtol=1e-5)


def test_the_reference_keeps_all_boxes_as_they_are_in_the_networks_order() -> None:
    found = detect(20, 40, Owlv2Params(0, 10, queries=CAT_AND_DOG, reference=True))
    assert found.labels.tolist() == [0, 0, 1, 0]
    np.testing.assert_allclose(found.boxes[2], [-0.05, 0, 0.15, 0.2], atol=1e-6)
    np.testing.assert_allclose(found.boxes[3], [0.4, 0.85, 0.6, 0.95], atol=1e-6)
    limited = detect(20, 40, Owlv2Params(0, 2, queries=CAT_AND_DOG, reference=True))
    assert limited.boxes.tolist() == found.boxes[2:].tolist(), "the best, in the network's order"


def test_a_score_at_the_threshold_counts_when_serving_and_not_for_reference() -> None:
    (first, *_) = detect(32, 32, Owlv2Params(0, 10)).scores[::-1]
    assert first == np.float32(0.5)
    assert len(detect(32, 32, Owlv2Params(0.5, 10)).scores) == 4
    assert len(detect(32, 32, Owlv2Params(0.5, 10, reference=True)).scores) == 3


def test_without_queries_objectness_is_the_score() -> None:
    found = detect(32, 32, Owlv2Params(0.9, 10))
    assert found.objectness is not None
    assert found.scores.tolist() == found.objectness.tolist()
    assert found.labels.tolist() == [0, 0]


def test_of_boxes_that_overlap_too_much_the_better_stays() -> None:
    assert len(detect(32, 32, Owlv2Params(0, 10, 0.85, CAT_AND_DOG)).scores) == 4
    apart = detect(32, 32, Owlv2Params(0, 10, 0.7, CAT_AND_DOG))
    assert len(apart.scores) == 3
    np.testing.assert_allclose(apart.boxes[2], [0, 0, 0.5, 0.4], atol=1e-6)


def test_nothing_to_look_for_finds_nothing() -> None:
    nothing = Queries.of(np.empty((0, 2), np.float32))
    for reference in (False, True):
        assert not len(detect(32, 32, Owlv2Params(0, 10, queries=nothing, reference=reference)).scores)


@given(
    st.integers(1, 60), st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.booleans(), st.integers(1, 4)
)
def test_whatever_is_asked_results_agree_with_themselves(
    height: int, width: int, score: float, overlap: float, agnostic: bool, most: int
) -> None:
    found = detect(height, width, Owlv2Params(score, most, overlap, None if agnostic else CAT_AND_DOG))
    assert len(found.boxes) == len(found.scores) == len(found.labels) <= most
    assert (found.scores >= np.float32(score)).all()
    assert (np.diff(found.scores) <= 0).all()
    assert ((found.boxes >= 0) & (found.boxes <= 1)).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_warm_up_runs_one_and_the_largest_batch() -> None:
    device = engine(max_batch=3)
    Owlv2Detector(device, labels=()).warm_up()
    assert device.batches == [1, 3]


def test_a_graph_of_something_else_is_refused() -> None:
    square = TensorSpec("pixel_values", ("batch", 3, SIDE, SIDE), "float32")
    with pytest.raises(ValueError, match="no image half of OWLv2"):
        Owlv2Detector(FakeEngine([square], [square], lambda inputs: {}), labels=())
    free = TensorSpec("pixel_values", ("batch", 3, "h", "w"), "float32")
    with pytest.raises(ValueError, match="does not say its sizes"):
        Owlv2Detector(FakeEngine([free], engine().outputs, lambda inputs: {}), labels=())
