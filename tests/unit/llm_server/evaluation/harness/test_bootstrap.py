"""Intervals hold what they should, and questions about one picture do not count as independent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.evaluation.harness.bootstrap import interval, percentiles, resampled_means


def test_independent_scores_give_the_binomial_interval() -> None:
    rng = np.random.default_rng(1)
    scores = (rng.random(400) < 0.8).astype(float).tolist()
    low, high = interval(scores, [str(i) for i in range(400)], resamples=4000)
    mean = sum(scores) / 400
    half = 1.96 * (mean * (1 - mean) / 400) ** 0.5
    assert low == pytest.approx(mean - half, abs=0.006)
    assert high == pytest.approx(mean + half, abs=0.006)


def test_scores_of_one_picture_stand_and_fall_together() -> None:
    scores = [1.0] * 100 + [0.0] * 100
    alone = interval(scores, [str(i) for i in range(200)])
    shared = interval(scores, [str(i // 10) for i in range(200)])
    assert shared[1] - shared[0] > 2.5 * (alone[1] - alone[0])


def test_one_picture_draws_its_questions() -> None:
    low, high = interval([1.0, 0.0] * 50, ["only"] * 100)
    assert low < 0.45
    assert high > 0.55


def test_columns_are_drawn_together() -> None:
    pairs = [[float(i % 2), 0.5 * (i % 2)] for i in range(60)]
    draws = resampled_means(pairs, [str(i) for i in range(60)])
    assert np.allclose(draws[:, 1], 0.5 * draws[:, 0])
    assert percentiles(draws[:, 1] / draws[:, 0]) == (0.5, 0.5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 5))
def test_an_interval_stays_within_the_scores_and_is_the_same_again(scores: list[float], seed: int) -> None:
    clusters = [str(i % 4) for i in range(len(scores))]
    low, high = interval(scores, clusters, seed=seed, resamples=200)
    assert min(scores) - 1e-9 <= low <= high <= max(scores) + 1e-9
    assert (low, high) == interval(scores, clusters, seed=seed, resamples=200)


@pytest.mark.parametrize(("scores", "clusters"), [([], []), ([[1.0]], ["a", "b"])])
def test_scores_and_pictures_must_agree(scores: list[list[float]], clusters: list[str]) -> None:
    with pytest.raises(ValueError, match="table"):
        resampled_means(scores, clusters)
