from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from llm_server.sampling import InvalidSamplingError, NonFiniteLogitsError, Sampler, SamplingParams

LOGITS = hnp.arrays(np.float32, st.integers(2, 600), elements=st.floats(-30, 30, width=32))


def sampler(params: SamplingParams, seed: int = 0, prompt: tuple[int, ...] = ()) -> Sampler:
    return Sampler(params, seed=seed, prompt=prompt)


def allowed_by_sorting(logits: NDArray[np.float32], params: SamplingParams) -> set[int]:
    """Which tokens may be drawn, by sorting everything: the slow and obvious way."""
    order = sorted(range(logits.size), key=lambda i: (-float(logits[i]), i))
    best = float(logits.max())
    least = {i for i in order if math.exp((float(logits[i]) - best) / params.temperature) < params.min_p}
    if params.top_k:
        order = order[: params.top_k]
    scaled = np.array([float(logits[i]) for i in order]) / params.temperature
    weights = np.exp(scaled - scaled.max())
    mass, kept = 0.0, set()
    for index, weight in zip(order, weights / weights.sum(), strict=True):
        kept.add(index)
        mass += weight
        if mass >= params.top_p - 1e-9:
            break
    return kept - least


@given(LOGITS)
def test_temperature_zero_is_greedy_and_lowest_id_wins_ties(logits: NDArray[np.float32]) -> None:
    assert sampler(SamplingParams()).choose(logits) == int(np.flatnonzero(logits == logits.max())[0])


@settings(max_examples=60)
@given(
    LOGITS,
    st.floats(0.05, 3),
    st.floats(0.01, 1),
    st.integers(0, 700),
    st.integers(0, 2**64 - 1),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_what_is_drawn_is_allowed_and_repeats_with_the_seed(
    logits: NDArray[np.float32], temperature: float, top_p: float, top_k: int, seed: int, min_p: float
) -> None:
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    first, second = sampler(params, seed), sampler(params, seed)
    before = logits.copy()
    drawn = [first.choose(logits) for _ in range(5)]
    assert drawn == [second.choose(logits) for _ in range(5)]
    # A hair more mass than asked: where the nucleus ends exactly at top_p, rounding may decide.
    generous = SamplingParams(
        temperature=temperature, top_p=min(1.0, top_p + 1e-6), top_k=top_k, min_p=max(0.0, min_p - 1e-6)
    )
    assert set(drawn) <= allowed_by_sorting(logits, generous)
    np.testing.assert_array_equal(logits, before)


def test_frequencies_follow_the_distribution() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    draw = sampler(SamplingParams(temperature=1.0), seed=1)
    counts = np.bincount(
        [draw.choose(np.log(probabilities).astype(np.float32)) for _ in range(4000)], minlength=4
    )
    np.testing.assert_allclose(counts / 4000, probabilities, atol=0.03)


def test_temperature_sharpens() -> None:
    logits = np.array([1.0, 0.0], np.float32)
    cold = [sampler(SamplingParams(temperature=0.1), seed).choose(logits) for seed in range(200)]
    hot = [sampler(SamplingParams(temperature=5.0), seed).choose(logits) for seed in range(200)]
    assert sum(cold) <= 2
    assert 60 <= sum(hot) <= 120


def test_a_tiny_temperature_does_not_overflow() -> None:
    assert sampler(SamplingParams(temperature=1e-30)).choose(np.array([1, 30, 2], np.float32)) == 1


def test_top_k_of_ties_keeps_the_lowest_ids() -> None:
    logits = np.zeros(1000, np.float32)
    drawn = {sampler(SamplingParams(temperature=1.0, top_k=3), seed).choose(logits) for seed in range(60)}
    assert drawn == {0, 1, 2}


def test_a_nucleus_wider_than_the_first_guess_is_found() -> None:
    logits = np.zeros(5000, np.float32)
    drawn = [sampler(SamplingParams(temperature=1.0, top_p=0.9), seed).choose(logits) for seed in range(300)]
    assert max(drawn) < 4500
    assert max(drawn) > 3500


def test_repetition_penalty_counts_prompt_and_answer_and_knows_signs() -> None:
    params = SamplingParams(repetition_penalty=2.0)
    assert sampler(params, prompt=(0,)).choose(np.array([3.0, 2.0], np.float32)) == 1
    assert sampler(params, prompt=(0,)).choose(np.array([-1.0, -1.5], np.float32)) == 1
    answer = sampler(params)
    logits = np.array([3.0, 2.0, 1.9], np.float32)
    assert [answer.choose(logits) for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [1.0, math.inf], [-math.inf, -math.inf]])
def test_logits_that_mean_nothing_are_refused(bad: list[float]) -> None:
    for params in (SamplingParams(), SamplingParams(temperature=1.0)):
        with pytest.raises(NonFiniteLogitsError):
            sampler(params).choose(np.array(bad, np.float32))


def test_minus_infinity_is_never_drawn() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)
    assert {sampler(SamplingParams(temperature=2.0), seed).choose(logits) for seed in range(50)} == {1, 3}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", value) for value in (-0.1, math.nan, math.inf)),
        *(("top_p", value) for value in (0.0, -1.0, 1.01, math.nan)),
        ("top_k", -1),
        *(("repetition_penalty", value) for value in (0.0, -1.0, math.inf, math.nan)),
        ("max_new_tokens", 0),
        *(("min_p", value) for value in (-0.1, 1.1, math.nan)),
        ("beams", 0),
    ],
)
def test_parameters_out_of_range_name_their_field(field: str, value: float) -> None:
    with pytest.raises(InvalidSamplingError) as refused:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert refused.value.field == field
