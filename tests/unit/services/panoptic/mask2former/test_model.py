"""Mask2Former behind an engine whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.panoptic.mask2former.model import Mask2FormerModel
from services.panoptic.model import PanopticParams, PanopticResult
from services.panoptic.query_network import Raw
from serving.coco import COCO_PANOPTIC, THINGS, UNLABELLED_ID
from serving.engine import FakeEngine, TensorSpec

SIDE = 32
DOG, SKY, GRASS = (COCO_PANOPTIC.index(name) for name in ("dog", "sky-other-merged", "grass-merged"))
SERVING = PanopticParams(0.5, 0.5, 0.8, 100, ((4, 8),))
REFERENCE = PanopticParams(0.5, 0.95, 0.8, 1000, ((4, 8), (16, 16)), reference=True)


def engine(classes: int = 134, side: int | str = SIDE, batches: list[int] | None = None) -> FakeEngine:
    """In every picture: sky on the left half (score .97), a dog on the right (.99), sky again below it (.9)."""

    def compute(inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        batch = len(inputs["pixel_values"])
        if batches is not None:
            batches.append(batch)
        scores = np.zeros((batch, 4, classes), np.float32)
        masks = np.full((batch, 4, SIDE // 4, SIDE // 4), -20, np.float32)
        parts = (np.s_[:, :4], np.s_[:4, 4:], np.s_[4:, 4:])
        for query, (label, score, part) in enumerate(
            zip((SKY, DOG, SKY), (0.97, 0.99, 0.9), parts, strict=True)
        ):
            scores[:, query, label] = np.log(score / (1 - score) * 133)
            masks[(slice(None), query, *part)] = 20
        scores[:, 3, 133] = 20
        return {"class_queries_logits": scores, "masks_queries_logits": masks}

    return FakeEngine(
        [TensorSpec("pixel_values", ("batch", 3, side, side), "float32")],
        [
            TensorSpec("class_queries_logits", ("batch", 4, classes), "float32"),
            TensorSpec("masks_queries_logits", ("batch", 4, SIDE // 4, SIDE // 4), "float32"),
        ],
        compute,
    )


def segment(
    params: PanopticParams, fuse: tuple[int, ...] = (), shape: tuple[int, int] = (64, 128)
) -> PanopticResult:
    model = Mask2FormerModel(engine(), fuse=fuse)
    (raw,) = model.infer([model.preprocess(np.zeros((*shape, 3), np.uint8), params)])
    return model.postprocess(raw, params)


def test_things_and_stuff_best_first() -> None:
    result = segment(SERVING)
    assert [(part.id, part.label, part.is_thing) for part in result.segments] == [
        (1, "dog", True),
        (2, "sky-other-merged", False),
        (3, "sky-other-merged", False),
    ]
    assert [part.area for part in result.segments] == pytest.approx([0.25, 0.5, 0.25], abs=0.01)
    assert result.segments[1].box == pytest.approx((0, 0, 0.5, 1), abs=0.02)
    np.testing.assert_array_equal(result.grids[0][:2], [[2, 2, 2, 2, 1, 1, 1, 1]] * 2)
    np.testing.assert_array_equal(result.grids[0][2:], [[2, 2, 2, 2, 3, 3, 3, 3]] * 2)


def test_stuff_can_be_fused() -> None:
    result = segment(SERVING, fuse=(SKY,))
    assert [(part.id, part.label) for part in result.segments] == [(1, "dog"), (2, "sky-other-merged")]
    assert result.segments[1].area == pytest.approx(0.75, abs=0.01)
    assert result.segments[1].box == (0, 0, 1, 1)


def test_the_reference_keeps_the_networks_order_and_divides_each_grid_by_itself() -> None:
    result = segment(REFERENCE, fuse=(SKY,))
    assert [part.label for part in result.segments] == ["sky-other-merged", "dog", "unlabelled"]
    assert [grid.shape for grid in result.grids] == [(4, 8), (16, 16)]
    np.testing.assert_array_equal(result.grids[0][0], [1, 1, 1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(result.grids[0][3], [1, 1, 1, 1, 0, 0, 0, 0])


def test_the_reference_squashes_the_picture_first() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    model = Mask2FormerModel(engine())
    serving, reference = (model.preprocess(picture, params).tensor for params in (SERVING, REFERENCE))
    assert serving.shape == reference.shape == (3, SIDE, SIDE)
    assert isinstance(serving, np.ndarray)
    assert isinstance(reference, np.ndarray)
    assert np.abs(serving - reference).max() > 0.01


def test_a_segment_that_lives_in_a_grid_alone_has_the_box_of_its_cells() -> None:
    """In the one pixel that there is, both masks are at one half; in eight cells, each is sure in four."""
    scores = np.zeros((2, 134), np.float32)
    scores[0, DOG] = scores[1, GRASS] = 30
    masks = np.full((2, 8, 8), -20, np.float32)
    masks[0, :, :4] = masks[1, :, 4:] = 20
    model = Mask2FormerModel(engine())
    params = PanopticParams(0.5, 0.7, 0.0, 1000, ((1, 8),), reference=True)
    result = model.postprocess(Raw(scores, masks, 1, 1), params)
    assert sorted(part.label for part in result.segments if part.area == 0) == ["dog", "grass-merged"]
    assert {part.label for part in result.segments if part.area == 1} == {"unlabelled"}
    for part in result.segments:
        if part.area == 0:
            columns = np.flatnonzero(result.grids[0][0] == part.id)
            assert part.box == (columns[0] / 8, 0, (columns[-1] + 1) / 8, 1)


def test_instances_are_drawn_only_when_they_are_wanted() -> None:
    assert segment(SERVING).instances == ()
    instances = segment(replace(SERVING, with_instances=True)).instances
    assert [instance.label for instance in instances] == ["dog", "sky-other-merged", "sky-other-merged"]
    assert instances[0].mask.full(64, 128).mean() == pytest.approx(0.25, abs=0.01)
    assert instances[0].box == pytest.approx((0.5, 0, 1, 0.5), abs=0.01)


def test_the_best_remain_where_fewer_are_wanted() -> None:
    (dog,) = segment(replace(SERVING, max_segments=1)).segments
    assert (dog.label, dog.area) == ("dog", 1.0)  # alone, it wins every pixel


def test_nothing_sure_is_all_unlabelled() -> None:
    for params in (SERVING, REFERENCE):
        result = segment(replace(params, score_threshold=0.999), shape=(5, 3))
        (rest,) = result.segments
        assert (rest.label_id, rest.area, rest.box, rest.score) == (UNLABELLED_ID, 1.0, (0, 0, 1, 1), 0.0)
        assert not any(grid.any() for grid in result.grids)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([SERVING, REFERENCE]),
    st.booleans(),
)
@settings(max_examples=40)
def test_every_pixel_is_in_exactly_one_segment(
    seed: int, height: int, width: int, params: PanopticParams, fused: bool
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(6, 134)).astype(np.float32)
    scores[np.arange(6), rng.choice([DOG, SKY, GRASS, 133], 6)] += rng.choice([4, 12], 6)
    masks = rng.normal(size=(6, 9, 7)).astype(np.float32) * 8
    model = Mask2FormerModel(engine(), fuse=range(THINGS, 133) if fused else ())
    result = model.postprocess(Raw(scores, masks, height, width), params)
    assert result.segment_map.shape == (height, width)
    assert [part.id for part in result.segments] == list(range(1, len(result.segments) + 1))
    for part in result.segments:
        mask = result.segment_map == part.number
        assert part.area == pytest.approx(mask.mean())
        assert part.area > 0 or params.reference
    assert sum(part.area for part in result.segments) == pytest.approx(1)
    ids = {part.id for part in result.segments if part.label_id != UNLABELLED_ID}
    for grid, (rows, columns) in zip(result.grids, params.grids, strict=True):
        assert grid.shape == (rows, columns)
        assert set(np.unique(grid)) <= ids | {0}
    if fused and not params.reference:
        stuff = [part.label_id for part in result.segments if THINGS <= part.label_id < UNLABELLED_ID]
        assert len(stuff) == len(set(stuff))


def test_warm_up_runs_the_largest_batch() -> None:
    batches: list[int] = []
    warmed = engine(batches=batches)
    Mask2FormerModel(warmed).warm_up()
    assert batches == [1, warmed.max_batch]


@pytest.mark.parametrize(("wrong", "reason"), [(engine(81), "80 classes"), (engine(side="any"), "size")])
def test_a_graph_that_does_not_fit_is_refused(wrong: FakeEngine, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Mask2FormerModel(wrong)


def test_a_graph_of_another_network_is_refused() -> None:
    yolo = FakeEngine(
        [TensorSpec("images", ("batch", 3, 640, 640), "float32")],
        [TensorSpec("output0", ("batch", 116, "anchors"), "float32")],
        lambda inputs: {},
    )
    with pytest.raises(ValueError, match="no Mask2Former"):
        Mask2FormerModel(yolo)
