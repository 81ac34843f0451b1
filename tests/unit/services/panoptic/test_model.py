"""The segmenter on an engine whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from services.panoptic.model import PanopticModel, PanopticParams, PanopticResult
from serving.coco import COCO_80, UNLABELLED_ID
from serving.engine import FakeEngine, TensorSpec

PARAMS = PanopticParams(
    score_threshold=0.25, mask_threshold=0.5, overlap_threshold=0.5, max_segments=100, grids=((4, 4), (1, 2))
)
DOG, CAT, BED = COCO_80.index("dog"), COCO_80.index("cat"), COCO_80.index("bed")


def engine(max_batch: int = 4, rows: int = 4 + 80 + 32) -> FakeEngine:
    """In every picture: a dog on the left half, a second guess at it as a cat, and a bed over everything.

    Prototype 0 is positive on the left half, prototype 1 everywhere.
    """

    def compute(inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        batch, _, height, width = inputs["images"].shape
        prototypes = np.full((batch, 32, height // 4, width // 4), 5, np.float32)
        prototypes[:, 0, :, width // 8 :] = -5
        output = np.zeros((batch, rows, 6), np.float32)
        output[:, :4, :3] = np.array([width / 2, height / 2, width, height], np.float32)[:, None]
        for anchor, (label, score, prototype) in enumerate([(CAT, 0.6, 0), (DOG, 0.9, 0), (BED, 0.3, 1)]):
            output[:, 4 + label, anchor] = score
            output[:, 84 + prototype, anchor] = 1
        return {"output0": output, "output1": prototypes}

    return FakeEngine(
        [TensorSpec("images", ("batch", 3, "height", "width"), "float32")],
        [
            TensorSpec("output0", ("batch", rows, "anchors"), "float32"),
            TensorSpec("output1", ("batch", 32, "mask_height", "mask_width"), "float32"),
        ],
        compute,
        max_batch=max_batch,
    )


def segment(params: PanopticParams = PARAMS, shape: tuple[int, int] = (64, 64)) -> PanopticResult:
    model = PanopticModel(engine())
    (raw,) = model.infer([model.preprocess(np.zeros((*shape, 3), np.uint8), params)])
    return model.postprocess(raw, params)


def test_overlaps_go_to_the_better_score() -> None:
    result = segment()
    assert [(part.id, part.label, part.is_thing) for part in result.segments] == [
        (1, "dog", True),
        (2, "bed", True),
    ]
    dog, bed = result.segments
    assert (dog.area, bed.area) == (0.5, 0.5)
    assert dog.box == (0, 0, 0.5, 1)
    assert bed.box == (0.5, 0, 1, 1)
    assert [instance.label for instance in result.instances] == ["dog", "cat", "bed"]
    assert result.instances[2].mask.full(64, 64).all()


def test_what_nobody_claims_is_one_unlabelled_segment_at_the_end() -> None:
    result = segment(PanopticParams(0.5, 0.5, 0.5, 100, ((2, 4),)))
    unlabelled = result.segments[-1]
    assert [part.label for part in result.segments] == ["dog", "unlabelled"]
    assert (unlabelled.id, unlabelled.number, unlabelled.label_id) == (2, 0, UNLABELLED_ID)
    assert (unlabelled.score, unlabelled.is_thing, unlabelled.area) == (0, False, 0.5)
    assert unlabelled.box == (0.5, 0, 1, 1)
    assert result.grids[0].tolist() == [[1, 1, 0, 0]] * 2


def test_a_picture_of_nothing_is_one_unlabelled_segment() -> None:
    result = segment(PanopticParams(0.99, 0.5, 0.5, 100))
    (unlabelled,) = result.segments
    assert (unlabelled.id, unlabelled.label, unlabelled.area, unlabelled.box) == (
        1,
        "unlabelled",
        1,
        (0, 0, 1, 1),
    )
    assert result.instances == ()


@pytest.mark.parametrize("shape", [(48, 64), (1080, 810), (30, 700), (2, 2)])
def test_the_partition_has_the_size_of_the_picture(shape: tuple[int, int]) -> None:
    result = segment(shape=shape)
    assert result.segment_map.shape == shape
    assert sum(part.area for part in result.segments) == pytest.approx(1)
    assert [grid.shape for grid in result.grids] == [(4, 4), (1, 2)]
    assert result.grids[1].tolist() == [[1, 2]]


def test_params_choose_count_masks_and_overlap() -> None:
    assert [part.label for part in segment(PanopticParams(0.25, 0.5, 0.5, 1)).segments] == [
        "dog",
        "unlabelled",
    ]
    assert [part.label for part in segment(PanopticParams(0.25, 0.5, 0.51, 9)).segments] == [
        "dog",
        "unlabelled",
    ]
    assert [part.label for part in segment(PanopticParams(0.25, 0.999, 0.5, 9)).segments] == ["unlabelled"]


def test_warming_up_runs_the_smallest_and_the_largest_batch() -> None:
    fake = engine(max_batch=4)
    PanopticModel(fake).warm_up()
    assert fake.batches == [1, 4]


def test_a_graph_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="79 classes, its labels are 80"):
        PanopticModel(engine(rows=4 + 79 + 32))
