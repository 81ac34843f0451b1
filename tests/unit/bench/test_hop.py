"""The bare call, measured between two real processes."""

from __future__ import annotations

from bench.hop import measure


def test_each_kind_of_caller_and_size_is_measured() -> None:
    told = measure(3, 20)
    assert set(told) == {"aio_ms_p50", "blocking_ms_p50", "small_aio_ms_p50", "small_blocking_ms_p50"}
    assert all(milliseconds > 0 for milliseconds in told.values())
