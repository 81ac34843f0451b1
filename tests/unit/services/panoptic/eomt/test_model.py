"""EoMT behind an engine whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from services.panoptic.backend import open_backend
from services.panoptic.eomt.claims import sure_queries
from services.panoptic.eomt.model import EomtModel
from services.panoptic.model import PanopticParams, PanopticResult
from services.panoptic.query_network import Raw
from services.panoptic.settings import PanopticSettings
from serving.coco import COCO_PANOPTIC, THINGS, UNLABELLED_ID
from serving.engine import EngineError, FakeEngine, TensorSpec
from serving.weights import WeightStore, WeightsUnavailableError

SIDE = 64
DOG, SKY = COCO_PANOPTIC.index("dog"), COCO_PANOPTIC.index("sky-other-merged")
SERVING = PanopticParams(0.8, 0.5, 0.8, 100, ((4, 8),))


def engine(
    classes: int = 134,
    side: int | str = SIDE,
    batches: list[int] | None = None,
    output: str = "masks_queries_logits",
    width: int | None = None,
) -> FakeEngine:
    """In every wide picture: sky on its left half (score .97), a dog on the right (.99), sky again below it (.9)."""

    def compute(inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        batch = len(inputs["pixel_values"])
        if batches is not None:
            batches.append(batch)
        scores = np.zeros((batch, 4, classes), np.float32)
        masks = np.full((batch, 4, SIDE // 4, SIDE // 4), -20, np.float32)
        # A picture of twice its height lies in the upper half of the square.
        parts = (np.s_[:9, :8], np.s_[:4, 8:], np.s_[4:9, 8:])
        for query, (label, score, part) in enumerate(
            zip((SKY, DOG, SKY), (0.97, 0.99, 0.9), parts, strict=True)
        ):
            scores[:, query, label] = np.log(score / (1 - score) * 133)
            masks[(slice(None), query, *part)] = 20
        masks[:, :, 9:] = 99  # below the picture and the cell beside it: whoever looks there is wrong
        scores[:, 3, 133] = 20
        return {"class_queries_logits": scores, output: masks}

    return FakeEngine(
        [TensorSpec("pixel_values", ("batch", 3, side, width or side), "float32")],
        [
            TensorSpec("class_queries_logits", ("batch", 4, classes), "float32"),
            TensorSpec(output, ("batch", 4, SIDE // 4, SIDE // 4), "float32"),
        ],
        compute,
    )


def segment(params: PanopticParams, fuse: tuple[int, ...] = ()) -> PanopticResult:
    model = EomtModel(engine(), fuse=fuse)
    (raw,) = model.infer([model.preprocess(np.zeros((60, 120, 3), np.uint8), params)])
    return model.postprocess(raw, params)


def test_things_and_stuff_best_first() -> None:
    result = segment(SERVING)
    assert [(part.id, part.label, part.is_thing) for part in result.segments[:3]] == [
        (1, "dog", True),
        (2, "sky-other-merged", False),
        (3, "sky-other-merged", False),
    ]
    assert [part.area for part in result.segments[:3]] == pytest.approx([0.25, 0.5, 0.25], abs=0.04)
    assert result.segments[0].box == pytest.approx((0.5, 0, 1, 0.5), abs=0.05)
    np.testing.assert_array_equal(result.grids[0][0], [2, 2, 2, 2, 1, 1, 1, 1])
    np.testing.assert_array_equal(result.grids[0][3], [2, 2, 2, 2, 3, 3, 3, 3])


def test_stuff_can_be_fused() -> None:
    result = segment(SERVING, fuse=(SKY,))
    assert [(part.id, part.label) for part in result.segments[:2]] == [(1, "dog"), (2, "sky-other-merged")]
    assert result.segments[1].area == pytest.approx(0.75, abs=0.04)


def test_a_query_keeps_only_where_it_is_sure_itself() -> None:
    """Alone, it wins every pixel, and yet owns its own part: not so Mask2Former's."""
    result = segment(replace(SERVING, score_threshold=0.98, overlap_threshold=0.0))
    assert [part.label for part in result.segments] == ["dog", "unlabelled"]
    assert result.segments[0].area == pytest.approx(0.25, abs=0.02)


def test_instances_are_drawn_only_when_they_are_wanted() -> None:
    assert segment(SERVING).instances == ()
    instances = segment(replace(SERVING, with_instances=True)).instances
    assert [instance.label for instance in instances] == ["dog", "sky-other-merged", "sky-other-merged"]
    assert instances[0].mask.full(60, 120).mean() == pytest.approx(0.25, abs=0.03)


def test_the_best_remain_where_fewer_are_wanted() -> None:
    labels = [part.label for part in segment(replace(SERVING, max_segments=1, overlap_threshold=0)).segments]
    assert labels == ["dog", "unlabelled"]


def test_nothing_sure_is_all_unlabelled() -> None:
    (rest,) = segment(replace(SERVING, score_threshold=0.999)).segments
    assert (rest.label_id, rest.area, rest.box, rest.score) == (UNLABELLED_ID, 1.0, (0, 0, 1, 1), 0.0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_pixel_is_in_exactly_one_segment(seed: int, height: int, width: int, fused: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(6, 134)).astype(np.float32)
    scores[np.arange(6), rng.choice([DOG, SKY, 125, 133], 6)] += rng.choice([6, 12], 6)
    masks = rng.normal(size=(6, 16, 16)).astype(np.float32) * 8
    model = EomtModel(engine(), fuse=range(THINGS, 133) if fused else ())
    params = replace(SERVING, overlap_threshold=0.3)
    result = model.postprocess(Raw(scores, masks, height, width), params)
    assert result.segment_map.shape == (height, width)
    assert [part.id for part in result.segments] == list(range(1, len(result.segments) + 1))
    assert [part.score for part in result.segments] == sorted(
        (p.score for p in result.segments), reverse=True
    )
    for part in result.segments:
        assert part.area == pytest.approx((result.segment_map == part.number).mean())
        assert part.area > 0
    assert sum(part.area for part in result.segments) == pytest.approx(1)
    if fused:
        stuff = [part.label_id for part in result.segments if THINGS <= part.label_id < UNLABELLED_ID]
        assert len(stuff) == len(set(stuff))


def test_warm_up_runs_the_largest_batch() -> None:
    batches: list[int] = []
    warmed = engine(batches=batches)
    EomtModel(warmed).warm_up()
    assert batches == [1, warmed.max_batch]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (engine(81), "80 classes"),
        (engine(side="any"), "input's size"),
        (engine(width=2 * SIDE), "square"),
        (engine(output="boxes"), "no EoMT"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(wrong: FakeEngine, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        EomtModel(wrong)


def test_classes_and_masks_must_be_of_the_same_queries() -> None:
    with pytest.raises(ValueError, match="not queries"):
        sure_queries(np.zeros((2, 134), np.float32), np.zeros((3, 4, 4), np.float32), 0.5)


def test_the_backend_needs_a_graph(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"services\.panoptic\.eomt\.export"):
        PanopticSettings(backend="eomt")
    missing = PanopticSettings(backend="eomt", model_path=tmp_path / "none.onnx")
    with pytest.raises(WeightsUnavailableError, match=r"'eomt'.*none\.onnx"):
        open_backend(missing, WeightStore(tmp_path))
    (tmp_path / "none.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"none\.onnx"):
        open_backend(missing, WeightStore(tmp_path))
