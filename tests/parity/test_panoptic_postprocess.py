"""Partitions from query logits: those of transformers' image processor, pixel for pixel, without torch.

The soft masks are resized bit for bit as torch does on one thread with fused multiply-add; elsewhere a pixel whose
two best queries are within rounding of one another may go to the other one.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.panoptic.mask2former.bilinear import Bilinear, Float
from services.panoptic.mask2former.published import REFERENCE, SERVING, Thresholds, post_process_panoptic

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

SETS = 520
CHUNKS = 20
CLASSES = 133


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Several threads group the four products of a resize differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def processor() -> Any:
    from transformers import Mask2FormerImageProcessor

    return Mask2FormerImageProcessor()


def logit_set(rng: np.random.Generator) -> tuple[Float, Float]:
    """Class logits (1, Q, 134) and mask logits (1, Q, h, w): sure and unsure, soft and hard, equal, empty, void."""
    count = int(rng.integers(1, 8))
    height, width = (int(side) for side in rng.integers(4, 28, 2))
    classes = rng.normal(size=(1, count, CLASSES + 1)).astype(np.float32)
    labels = rng.choice(rng.choice(CLASSES, 3), count)  # few classes, so that they repeat
    classes[0, np.arange(count), labels] += rng.choice(np.array([3, 6, 9, 12], np.float32), count)
    masks = rng.normal(size=(1, count, height, width)).astype(np.float32)
    cells = rng.integers(0, count, (height, width))
    masks += rng.choice([0, 3, 30]) * np.where(cells == np.arange(count)[:, None, None], 1, -1)
    masks *= rng.choice([1, 4])
    kind = rng.integers(0, 6)
    if kind == 0:  # two queries that are one and the same
        classes[0, -1], masks[0, -1] = classes[0, 0], masks[0, 0]
    elif kind == 1:  # nothing there
        classes[0, rng.random(count) < 0.8, CLASSES] += 20
    elif kind == 2:  # all void
        classes[0, :, CLASSES] += 40
    elif kind == 3:  # empty and full masks
        masks[0, rng.random(count) < 0.5] = -50
        masks[0, rng.random(count) < 0.3] = 50
    return classes.astype(np.float32), masks.astype(np.float32)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_logits_give_the_partition_of_transformers(processor: Any, chunk: int) -> None:
    rng = np.random.default_rng(chunk)
    for number in range(SETS // CHUNKS):
        classes, masks = logit_set(rng)
        target = (35, 35) if rng.random() < 0.3 else (int(rng.integers(1, 120)), int(rng.integers(1, 120)))
        thresholds = (SERVING, REFERENCE, Thresholds(0.8, 0.3, 0.6))[rng.integers(0, 3)]
        fuse = set(rng.choice(CLASSES, 60).tolist()) if rng.random() < 0.3 else set()
        expected = processor.post_process_panoptic_segmentation(
            SimpleNamespace(
                class_queries_logits=torch.from_numpy(classes.copy()),
                masks_queries_logits=torch.from_numpy(masks.copy()),
            ),
            threshold=thresholds.score,
            mask_threshold=thresholds.mask,
            overlap_mask_area_threshold=thresholds.overlap,
            label_ids_to_fuse=fuse,
            target_sizes=[target],
        )[0]
        (found,) = post_process_panoptic(
            classes, masks, target_sizes=[target], thresholds=thresholds, label_ids_to_fuse=fuse
        )
        where = f"set {chunk}.{number}, target {target}"
        np.testing.assert_array_equal(found.segmentation, expected["segmentation"].numpy(), err_msg=where)
        listed = expected["segments_info"]
        assert [(s.id, s.label_id, s.was_fused) for s in found.segments] == [
            (s["id"], s["label_id"], s["was_fused"]) for s in listed
        ], where
        # The sixth digit may round the other way: torch's exponential is not the correctly rounded one everywhere.
        np.testing.assert_allclose(
            [s.score for s in found.segments], [s["score"] for s in listed], atol=1.1e-6, err_msg=where
        )


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_maps_are_resized_as_torch_does(source: tuple[int, int], target: tuple[int, int], seed: int) -> None:
    image = np.random.default_rng(seed).normal(size=source).astype(np.float32) * np.float32(5)
    # Four maps at once: for three, torch takes another kernel.
    stacked = torch.from_numpy(np.stack([image] * 4))[None]
    expected = torch.nn.functional.interpolate(stacked, size=target, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(Bilinear(source, target)(image), expected[0, 0].numpy(), atol=1e-5, rtol=0)
