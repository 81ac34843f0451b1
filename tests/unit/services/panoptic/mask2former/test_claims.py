"""What holds of every partition, whatever the queries say. Equality with the published code: tests/parity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.panoptic.mask2former.bilinear import Bilinear, Float
from services.panoptic.mask2former.claims import NOBODY, settle_claims
from services.panoptic.mask2former.published import REFERENCE, SERVING, Thresholds, post_process_panoptic
from services.panoptic.mask2former.queries import SureQueries, best_class, sigmoid, sure_queries

FEW = settings(max_examples=40)
SIDE = st.integers(1, 40)


def queries(rng: np.random.Generator, count: int, *, side: int = 24) -> SureQueries:
    """Soft masks that are often equal, empty or full."""
    masks = rng.random((count, side, side), np.float32) ** rng.integers(0, 6, (count, 1, 1))
    masks = masks.astype(np.float32) * rng.integers(0, 2, (count, 1, 1)).astype(np.float32)
    if count > 1:
        masks[-1] = masks[0]
    scores = rng.choice(np.array([0.51, 0.9, 0.96, 1.0], np.float32), count)
    return SureQueries(scores, rng.integers(0, 133, count).astype(np.intp), masks)


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), SIDE, SIDE, st.floats(0, 1), st.floats(0, 1))
@FEW
def test_every_pixel_has_one_owner_or_nobody(
    seed: int, count: int, height: int, width: int, mask_threshold: float, overlap_threshold: float
) -> None:
    sure = queries(np.random.default_rng(seed), count)
    claims = settle_claims(
        sure, (height, width), mask_threshold=mask_threshold, overlap_threshold=overlap_threshold
    )
    assert claims.owner.shape == (height, width)
    assert set(np.unique(claims.owner)) - {NOBODY} == set(claims.survivors)
    assert list(claims.survivors) == sorted(set(claims.survivors))
    resize = Bilinear((24, 24), (height, width))
    for query in claims.survivors:
        weighted = resize(sure.masks[query]) * sure.scores[query]
        surely = np.count_nonzero(weighted >= np.float32(mask_threshold))
        won = np.count_nonzero(claims.owner == query)
        assert won > 0 < surely
        assert won / surely > overlap_threshold - 1e-6


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), SIDE, SIDE)
@FEW
def test_without_demands_the_highest_weighted_mask_owns_the_pixel(
    seed: int, count: int, height: int, width: int
) -> None:
    sure = queries(np.random.default_rng(seed), count)
    claims = settle_claims(sure, (height, width), mask_threshold=0, overlap_threshold=-1)
    resize = Bilinear((24, 24), (height, width))
    weighted = np.stack([resize(mask) * score for mask, score in zip(sure.masks, sure.scores, strict=True)])
    np.testing.assert_array_equal(claims.owner, weighted.argmax(axis=0))


def regions(rng: np.random.Generator, count: int, side: int) -> Float:
    """Soft masks (count, side, side) as a trained network draws them: sure inside, soft edges, now and then equal."""
    y, x = np.mgrid[:side, :side]
    centres = rng.random((count, 2)) * side
    away = np.stack([np.hypot(y - cy, x - cx) for cy, cx in centres])
    reach = rng.random((count, 1, 1)) * side
    steep = rng.choice([0.2, 1.0, 30.0], (count, 1, 1))
    masks: Float = (1 / (1 + np.exp(np.clip((away - reach) * steep, -60, 60)))).astype(np.float32)
    if count > 1 and rng.random() < 0.5:
        masks[-1] = masks[0]
    return masks


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(1, 60),
    st.integers(1, 260),
    st.integers(1, 260),
    st.sampled_from([0.0, 0.3, 0.5, 0.95, 1.0]),
    st.sampled_from([0.0, 0.8]),
)
@FEW
def test_what_is_settled_by_tiles_is_what_every_pixel_says(
    seed: int, count: int, side: int, height: int, width: int, mask_threshold: float, overlap_threshold: float
) -> None:
    """Against the rule as published, written out: all masks at full size, the first of the highest."""
    rng = np.random.default_rng(seed)
    scores = rng.choice(np.array([0.51, 0.9, 0.95, 1.0], np.float32), count)
    sure = SureQueries(scores, np.zeros(count, np.intp), regions(rng, count, side))
    claims = settle_claims(
        sure, (height, width), mask_threshold=mask_threshold, overlap_threshold=overlap_threshold
    )
    resize = Bilinear((side, side), (height, width))
    weighted = np.stack([resize(mask) * score for mask, score in zip(sure.masks, scores, strict=True)])
    owner = weighted.argmax(axis=0)
    for query in range(count):
        won = np.count_nonzero(owner == query)
        surely = np.count_nonzero(weighted[query] >= np.float32(mask_threshold))
        share = float(np.float32(won) / np.float32(surely or 1))
        survives = won > 0 and surely > 0 and share > overlap_threshold
        assert (query in claims.survivors) == survives
        np.testing.assert_array_equal(claims.owner == query, (owner == query) & survives)


@given(st.integers(0, 2**32 - 1), st.data())
@FEW
def test_a_window_is_that_part_of_the_whole(seed: int, data: st.DataObject) -> None:
    source, target = (data.draw(st.tuples(SIDE, SIDE)) for _ in range(2))
    resize = Bilinear(source, target, at_once=data.draw(st.none() | st.booleans()))
    image = np.random.default_rng(seed).normal(size=source).astype(np.float32)
    parts = [sorted(data.draw(st.tuples(st.integers(0, n - 1), st.integers(1, n)))) for n in target]
    rows, columns = (slice(first, max(last, first + 1)) for first, last in parts)
    np.testing.assert_array_equal(resize.window(image, rows, columns), resize(image)[rows, columns])


def logits(*queries: tuple[int, float]) -> Float:
    """(1, Q, 134): each query's class with its score."""
    scores = np.zeros((1, len(queries), 134), np.float32)
    for query, (label, score) in enumerate(queries):
        scores[0, query, label] = np.log(score / (1 - score) * 133)
    return scores


def test_a_score_below_the_mask_threshold_lets_nothing_survive_though_the_mask_is_full() -> None:
    masks = np.full((1, 2, 8, 8), -20, np.float32)
    masks[0, 0, :, :4] = masks[0, 1, :, 4:] = 20
    unsure = logits((3, 0.9), (4, 0.97))
    (reference,) = post_process_panoptic(unsure, masks, target_sizes=[(8, 8)], thresholds=REFERENCE)
    (serving,) = post_process_panoptic(unsure, masks, target_sizes=[(8, 8)], thresholds=SERVING)
    assert [segment.label_id for segment in reference.segments] == [4]
    assert set(np.unique(reference.segmentation)) == {0, 1}
    assert [segment.label_id for segment in serving.segments] == [3, 4]
    assert (serving.segmentation > 0).all()


def test_nothing_sure_is_a_map_of_minus_one() -> None:
    (nothing,) = post_process_panoptic(
        logits((133, 0.99), (7, 0.3)), np.zeros((1, 2, 4, 4), np.float32), target_sizes=[(3, 5)]
    )
    assert nothing.segments == ()
    np.testing.assert_array_equal(nothing.segmentation, np.full((3, 5), -1))


def test_fused_classes_share_a_number() -> None:
    masks = np.full((1, 3, 3, 3), -20, np.float32)
    for query in range(3):
        masks[0, query, :, query] = 20
    sky = logits((119, 0.99), (119, 0.98), (119, 0.97))
    thresholds = Thresholds(0.5, 0.5, 0.5)
    for fuse, numbers in (((), [1, 2, 3]), ((119,), [1, 1, 1])):
        (found,) = post_process_panoptic(
            sky, masks, target_sizes=[(9, 9)], thresholds=thresholds, label_ids_to_fuse=fuse
        )
        assert [segment.id for segment in found.segments] == numbers
        assert {segment.was_fused for segment in found.segments} == {bool(fuse)}
        assert set(np.unique(found.segmentation)) == set(numbers)


def test_saturated_logits_do_not_warn() -> None:
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(
            sigmoid(np.array([-1e4, -90, 0, 90, 1e4], np.float32)), [0, 0, 0.5, 1, 1]
        )


def test_the_first_of_equal_classes_is_taken() -> None:
    scores, labels = best_class(np.zeros((2, 134), np.float32))
    np.testing.assert_array_equal(labels, 0)
    np.testing.assert_allclose(scores, 1 / 134, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8), (0, 8, 8)])
def test_classes_and_masks_must_be_of_the_same_queries(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not queries"):
        sure_queries(np.zeros((2, 134), np.float32), np.zeros(shape, np.float32), 0.5)


def test_a_map_is_resized_as_it_was_announced() -> None:
    with pytest.raises(ValueError, match="empty"):
        Bilinear((4, 4), (0, 4))
    with pytest.raises(ValueError, match="made for"):
        Bilinear((4, 4), (8, 8))(np.zeros((4, 5), np.float32))
    same = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(Bilinear((2, 3), (2, 3))(same), same)
