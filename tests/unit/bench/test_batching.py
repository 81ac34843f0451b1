"""The measurement of batches, on the device by the clock."""

from __future__ import annotations

from bench.batching import LOADS, latency, simulated
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
    async def ask() -> int:
        raise QueueFullError("full", retry_after_s=1)

    figures = await latency(ask, rate=1000, seconds=0)
    assert figures == {"p50_ms": None, "p99_ms": None, "mean_batch": None, "requests": 20, "refused": 20}
