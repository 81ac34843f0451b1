"""The estimate behind early refusal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.latency import LatencyEstimate

SAMPLES = st.lists(st.tuples(st.floats(0, 1e7), st.floats(0, 100)), min_size=1, max_size=30)


def test_unknown_is_nothing() -> None:
    estimate = LatencyEstimate()
    assert not estimate.known
    assert estimate.seconds(8) == 0


def test_a_line_is_found_again() -> None:
    estimate = LatencyEstimate()
    for weight in (1, 4, 2, 8, 3, 1):
        estimate.observe(weight, 0.010 + 0.002 * weight)
    assert estimate.seconds(6) == pytest.approx(0.022)


def test_batches_of_one_size_say_nothing_about_others() -> None:
    estimate = LatencyEstimate()
    for _ in range(5):
        estimate.observe(4, 0.02)
    assert estimate.seconds(1) == estimate.seconds(8) == pytest.approx(0.02)


def test_what_does_not_grow_with_a_batch_is_told_apart() -> None:
    estimate = LatencyEstimate()
    assert estimate.fixed_s == 0
    for weight in (1, 8, 2, 4, 1):
        estimate.observe(weight, 0.030 + 0.001 * weight)
    assert estimate.fixed_s == pytest.approx(0.030)


def test_a_slope_is_not_read_from_noise() -> None:
    """After many batches of all but one weight it is forgotten what others cost, until one of them runs again."""
    estimate = LatencyEstimate()
    for weight in (1, 8, 2, 4):
        estimate.observe(weight, 0.010 * weight)
    assert estimate.fixed_s == pytest.approx(0, abs=1e-9)
    for number in range(100):
        estimate.observe(1, 0.010 + 0.001 * (number % 2))
    assert estimate.fixed_s == pytest.approx(estimate.seconds(1))
    estimate.observe(8, 0.080)
    assert estimate.seconds(8) == pytest.approx(0.080, rel=0.05)


def test_it_follows_a_device_that_changed() -> None:
    estimate = LatencyEstimate()
    for _ in range(50):
        estimate.observe(1, 1.0)
    for _ in range(50):
        estimate.observe(1, 0.01)
    assert estimate.seconds(1) < 0.02


def test_easing_wears_one_slow_batch_down() -> None:
    estimate = LatencyEstimate()
    estimate.observe(1, 10.0)
    for _ in range(100):
        estimate.ease()
    assert estimate.seconds(1) < 0.1


@given(SAMPLES, st.floats(0, 1e7), st.floats(0, 1e7))
def test_never_negative_and_never_falling_in_weight(
    samples: list[tuple[float, float]], one: float, other: float
) -> None:
    estimate = LatencyEstimate()
    for weight, seconds in samples:
        estimate.observe(weight, seconds)
    low, high = sorted((one, other))
    assert 0 <= estimate.seconds(low) <= estimate.seconds(high) + 1e-9
