"""PSGTR behind an engine whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from services.scene_graph.predicates import PREDICATE_IDS
from services.scene_graph.psgtr.model import REFERENCE, SERVING, PsgtrModel
from serving.engine import FakeEngine, Tensor, TensorSpec

PERSON, CUP = 0, 41


def engine(columns: int = 134, names: tuple[str, str] = ("pixel_values", "pixel_mask")) -> FakeEngine:
    """In every picture a person on the left holds a cup on the right; the mean of the picture is in the box."""

    def compute(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        batch, _, height, width = inputs["pixel_values"].shape
        assert inputs["pixel_mask"].shape == (batch, height, width)
        classes = np.zeros((2, batch, 2, 134), np.float32)
        classes[0, :, 0, PERSON], classes[1, :, 0, CUP] = 12, 11
        relations = np.zeros((batch, 2, 57), np.float32)
        relations[:, 0, PREDICATE_IDS["holding"] + 1] = relations[:, 1, 0] = 12
        boxes = np.tile(np.array([0.5, 0.5, 0.5, 0.5], np.float32), (batch, 2, 1))
        boxes[:, 0, 2] = np.clip(inputs["pixel_values"].mean(axis=(1, 2, 3)) / 8 + 0.5, 0, 1)
        masks = np.full((2, batch, 2, height // 4, width // 4), -9, np.float32)
        masks[0, :, 0, :, : width // 8] = masks[1, :, 0, :, width // 8 :] = 9
        return {
            "subject_logits": classes[0],
            "object_logits": classes[1],
            "relation_logits": relations,
            "subject_boxes": boxes,
            "object_boxes": boxes,
            "subject_masks": masks[0],
            "object_masks": masks[1],
        }

    side = ("batch", 2)
    return FakeEngine(
        [
            TensorSpec(names[0], ("batch", 3, "height", "width"), "float32"),
            TensorSpec(names[1], ("batch", "height", "width"), "float32"),
        ],
        [
            TensorSpec("subject_logits", (*side, columns), "float32"),
            TensorSpec("object_logits", (*side, columns), "float32"),
            TensorSpec("relation_logits", (*side, 57), "float32"),
            TensorSpec("subject_boxes", (*side, 4), "float32"),
            TensorSpec("object_boxes", (*side, 4), "float32"),
            TensorSpec("subject_masks", (*side, "mask_height", "mask_width"), "float32"),
            TensorSpec("object_masks", (*side, "mask_height", "mask_width"), "float32"),
        ],
        compute,
        max_batch=3,
    )


def blank(height: int, width: int, grey: int = 0) -> np.ndarray:
    return np.full((height, width, 3), grey, np.uint8)


def test_a_triplet_becomes_two_objects_and_a_relation() -> None:
    model = PsgtrModel(engine(), longer=128, shorter=64)
    (raw,) = model.infer([model.preprocess(blank(60, 120))])
    graph = model.postprocess(raw, SERVING)
    assert graph.labels.tolist() == [PERSON, CUP]
    (relation,) = graph.relations
    assert (relation.subject, relation.predicate, relation.object) == (0, "holding", 1)
    person = graph.masks[0].full(60, 120)
    assert person[:, :55].all()
    assert not person[:, 65:].any()


def test_the_reference_tells_nothing_where_there_are_fewer_relations_than_objects() -> None:
    model = PsgtrModel(engine(), longer=128, shorter=64)
    (raw,) = model.infer([model.preprocess(blank(60, 120), REFERENCE)])
    graph = model.postprocess(raw, REFERENCE)
    assert graph.labels.tolist() == [PERSON, CUP]
    assert graph.relations == ()
    (relation,) = model.postprocess(raw, replace(REFERENCE, max_relations=1)).relations
    assert (relation.subject, relation.predicate, relation.object) == (0, "holding", 1)


def test_pictures_of_one_size_share_a_run_and_keep_their_places() -> None:
    fake = engine()
    model = PsgtrModel(fake, longer=128, shorter=64)
    sizes = [(60, 120), (120, 60), (60, 120), (60, 120), (60, 120), (50, 50)]
    pictures = [model.preprocess(blank(*size, grey=40 * index)) for index, size in enumerate(sizes)]
    together = model.infer(pictures)
    assert sorted(fake.batches) == [1, 1, 1, 3]
    assert [(raw.fit.height, raw.fit.width) for raw in together] == sizes
    for picture, raw in zip(pictures, together, strict=True):
        (alone,) = model.infer([picture])
        np.testing.assert_array_equal(alone.subject_boxes, raw.subject_boxes)
    assert len({float(raw.subject_boxes[0, 2]) for raw in together}) == len(sizes)


def test_warm_up_runs_one_and_the_largest_batch() -> None:
    fake = engine()
    PsgtrModel(fake, longer=128, shorter=64).warm_up(SERVING)
    assert fake.batches == [1, 3]


def test_the_largest_input_is_that_of_a_wide_picture() -> None:
    assert PsgtrModel(engine()).input_size == (800, 1344)


def test_a_graph_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="81 columns, not 134"):
        PsgtrModel(engine(columns=81))
    with pytest.raises(ValueError, match="no PSGTR"):
        PsgtrModel(engine(names=("images", "pixel_mask")))
