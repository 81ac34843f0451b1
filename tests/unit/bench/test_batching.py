"""The measurement of batches, on the device by the clock."""

from __future__ import annotations

from bench.batching import LOADS, simulated


async def test_batches_bring_what_the_simulated_device_promises() -> None:
    alone = await simulated(1, 0.4)
    batched = await simulated(32, 0.4)
    assert batched["images_per_s"] > 2 * alone["images_per_s"]
    for load in LOADS:
        assert alone[f"load_{load}"]["mean_batch"] == 1
        assert 0 < batched[f"load_{load}"]["p50_ms"] <= batched[f"load_{load}"]["p99_ms"]
        assert batched[f"load_{load}"]["refused"] == 0
