"""EoMT's partitions from query logits: those of transformers' image processor, pixel for pixel, without torch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from services.panoptic.eomt.published import post_process_panoptic

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

SETS = 520
CHUNKS = 10
CLASSES = 133
STUFF = list(range(80, 133))
FEW = (1, 2, 4, 5, 6, 7)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Several threads group the four products of a resize differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def processor() -> Any:
    from transformers import EomtImageProcessor

    return EomtImageProcessor()


def logit_set(
    rng: np.random.Generator, cells: int, counts: tuple[int, ...], *, ties: bool
) -> tuple[Any, Any]:
    """Class logits (1, Q, 134) and mask logits (1, Q, cells, cells): sure and unsure, soft and hard, equal, void.

    Never three queries: for exactly three maps torch resizes by another kernel.
    """
    count = int(rng.choice(counts))
    classes = rng.normal(size=(1, count, CLASSES + 1)).astype(np.float32)
    labels = rng.choice(rng.choice(CLASSES, 3), count)  # few classes, so that they repeat
    classes[0, np.arange(count), labels] += rng.choice(np.array([3, 6, 9, 12], np.float32), count)
    masks = rng.normal(size=(1, count, cells, cells)).astype(np.float32)
    owners = np.kron(rng.integers(0, count, (4, 4)), np.ones((cells // 4, cells // 4), np.int64))
    masks += rng.choice([0, 3, 30]) * np.where(owners == np.arange(count)[:, None, None], 1, -1)
    masks *= rng.choice([1, 4])
    kind = rng.integers(0, 6)
    if ties:  # two queries that are one and the same
        classes[0, -1], masks[0, -1] = classes[0, 0], masks[0, 0]
    if kind == 1:  # nothing there
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
    kept = fused = 0
    for number in range(SETS // CHUNKS):
        side = int(rng.choice([80, 96]))
        ties = rng.random() < 0.3
        # Where two queries are equal, torch's exponential decides, which rounds the last few of an array otherwise:
        # sizes that fill its vectors have no such rest.
        step = 8 if ties else 1
        target = (step * int(rng.integers(2, 130 // step)), step * int(rng.integers(2, 130 // step)))
        # Into maps of at most 128 rows and columns together torch resizes eight queries at a time, rounding otherwise.
        classes, masks = logit_set(rng, side // 4, FEW if sum(target) <= 128 else (*FEW, 9, 24), ties=ties)
        score, mask, overlap = ((0.8, 0.5, 0.8), (0.5, 0.3, 0.6), (0.3, 0.9, 0.1))[rng.integers(0, 3)]
        stuff = STUFF if rng.random() < 0.5 else []
        (expected,) = processor.post_process_panoptic_segmentation(
            SimpleNamespace(
                class_queries_logits=torch.from_numpy(classes.copy()),
                masks_queries_logits=torch.from_numpy(masks.copy()),
            ),
            target_sizes=[target],
            threshold=score,
            mask_threshold=mask,
            overlap_mask_area_threshold=overlap,
            stuff_classes=stuff,
            size={"shortest_edge": side, "longest_edge": side},
        )
        (found,) = post_process_panoptic(
            classes,
            masks,
            target_sizes=[target],
            side=side,
            threshold=score,
            mask_threshold=mask,
            overlap_threshold=overlap,
            stuff_classes=stuff,
        )
        where = f"set {chunk}.{number}, target {target}, side {side}"
        np.testing.assert_array_equal(found.segmentation, expected["segmentation"].numpy(), err_msg=where)
        listed = expected["segments_info"]
        assert [(s.id, s.label_id) for s in found.segments] == [(s["id"], s["label_id"]) for s in listed], (
            where
        )
        # The sixth digit may round the other way: torch's exponential is not the correctly rounded one everywhere.
        np.testing.assert_allclose(
            [s.score for s in found.segments], [s["score"] for s in listed], atol=1.1e-6, err_msg=where
        )
        kept += len(listed)
        fused += bool(stuff) and any(s["label_id"] >= 80 for s in listed)
    assert kept > 20, "these sets leave nothing to compare"
    assert fused > 2
