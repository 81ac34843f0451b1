"""Stage timings as the contract's message."""

from __future__ import annotations

import pytest

from serving.timings import StageTimings, duration


def test_to_proto() -> None:
    timings = StageTimings(
        queue_s=0.001, preprocess_s=0.002, inference_s=1.5, postprocess_s=0, batch_size=4
    ).to_proto()
    assert timings.queue.nanos == 1_000_000
    assert timings.preprocess.nanos == 2_000_000
    assert (timings.inference.seconds, timings.inference.nanos) == (1, 500_000_000)
    assert timings.postprocess.ToNanoseconds() == 0
    assert timings.batch_size == 4


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.1, 59.999999999, 86400.0])
def test_durations_are_exact_to_the_nanosecond(seconds: float) -> None:
    assert duration(seconds).ToNanoseconds() == round(seconds * 1e9)
