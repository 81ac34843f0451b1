"""Scores of patches against queries, and which patch of a picture stands for what it shows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.detection.owlv2.queries import Queries, best_queries, example_patch, iou, sigmoid, unit

CORNERS = np.array([[0, 0, 0.5, 0.5], [0.05, 0, 0.5, 0.5], [0, 0, 0.46, 0.5], [0.5, 0.5, 1, 1]], np.float32)


def vectors(seed: int, *shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(st.integers(1, 1300), st.integers(1, 9), st.integers(0, 50))
def test_the_best_query_of_each_patch_is_that_of_all_logits_at_once(
    patches: int, words: int, seed: int
) -> None:
    embeds, shift, scale = (
        vectors(seed, patches, 6),
        vectors(seed + 1, patches),
        np.exp(vectors(seed + 2, patches)),
    )
    queries = Queries.of(vectors(seed + 3, words, 6))
    logits = (unit(embeds) @ queries.embeddings.T + shift[:, None]) * scale[:, None]
    best, labels = best_queries(embeds, shift, scale, queries)
    np.testing.assert_allclose(best, logits.max(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits[np.arange(patches), labels], best, rtol=1e-4, atol=1e-5)


def test_of_equal_queries_the_first_is_meant() -> None:
    cat, dog = vectors(0, 2, 6)
    queries = Queries.of(np.stack([dog, cat, dog, cat]), ["dog", "cat", "dog", "cat"])
    assert queries.ids.tolist() == [0, 1]
    _, labels = best_queries(np.stack([cat, dog]), np.zeros(2, np.float32), np.ones(2, np.float32), queries)
    assert labels.tolist() == [1, 0]


def test_without_queries_nothing_is_likely() -> None:
    best, labels = best_queries(
        vectors(0, 3, 4), vectors(1, 3), vectors(2, 3), Queries.of(np.empty((0, 4), np.float32))
    )
    assert (best == -np.inf).all()
    assert labels.tolist() == [0, 0, 0]


def test_sigmoid_reaches_its_ends_in_silence() -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        values = sigmoid(np.array([-np.inf, -200, 0, 200], np.float32))
    np.testing.assert_allclose(values, [0, 0, 0.5, 1])


def test_overlap() -> None:
    box = np.array([0, 0, 0.5, 0.5], np.float32)
    np.testing.assert_allclose(iou(CORNERS, box), [1, 0.9, 0.92, 0], atol=1e-6)
    nothing = np.zeros((1, 4), np.float32)
    assert iou(nothing, nothing[0]).tolist() == [0]


def test_without_a_box_the_most_object_like_patch_is_the_example() -> None:
    objectness = np.array([0, 3, 9, -1], np.float32)
    assert example_patch(vectors(0, 4, 5), CORNERS, objectness, None) == 2


def test_of_the_boxes_that_fit_the_one_least_like_the_background_is_the_example() -> None:
    """Three fit; their embeddings lie ever further from the mean, to which the fourth belongs as well."""
    background = np.ones(5, np.float32)
    embeds = np.stack([background, 0.2 * background, -0.5 * background, -9 * background])
    embeds[3] = background
    box = np.array([0, 0, 0.5, 0.5], np.float32)
    assert example_patch(embeds, CORNERS, np.array([9, 0, 0, 9], np.float32), box) == 2


def test_where_no_box_meets_it_the_nearest_is_the_example() -> None:
    """Nearest: together with the box asked for it leaves the least of their common hull empty."""
    embeds = vectors(0, 4, 5)
    for asked, nearest in (([0, 0.9, 0.1, 1], 2), ([0.9, 0, 1, 0.1], 0)):
        box = np.array(asked, np.float32)
        assert example_patch(embeds[:3], CORNERS[:3], vectors(1, 3), box) == nearest
