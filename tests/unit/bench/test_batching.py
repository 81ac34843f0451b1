"""The measurement of batches, on the device by the clock."""

from __future__ import annotations

from bench.batching import LOADS, measure, simulated
from serving.errors import QueueFullError


async def test_batches_bring_what_the_simulated_device_promises() -> None:
    told = await simulated(0.4)
    alone, batched = told["batch_1"], told["batched"]
    assert told["throughput_ratio"] > 2
    assert batched["images_per_s"] > 2 * alone["images_per_s"]
    for load in LOADS:
        assert alone[f"load_{load}"]["mean_batch"] == 1
        assert 0 < batched[f"load_{load}"]["p50_ms"] <= batched[f"load_{load}"]["p99_ms"]
        assert batched[f"load_{load}"]["refused"] == 0


async def test_requests_that_are_all_refused_are_counted_and_have_no_latency() -> None:
    answered = 0

    async def ask() -> int:
        nonlocal answered
        answered += 1
        if answered > 23:  # warm-up of both sides, and three rounds of one request a side
            raise QueueFullError("full", retry_after_s=1)
        return 1

    told = await measure(ask, ask, in_flight=1, seconds=0)
    for side in ("batch_1", "batched"):
        for load in LOADS:
            figures = told[side][f"load_{load}"]
            assert (figures["p50_ms"], figures["p99_ms"], figures["mean_batch"]) == (None, None, None)
            assert figures["refused"] == figures["requests"] == 20
