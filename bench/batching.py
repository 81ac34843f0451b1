"""What do batches bring? Throughput against batch 1, and latency at half and at four fifths of the load.

    python -m bench.batching [--json] [--only simulated|detection] [--seconds 6]

Twice the same measurement, through the batcher of the experts (`serving.batcher`):

- `simulated`: a device that takes 8 ms a batch and 1 ms an item, by the clock, as a GPU does on which a small network
  is bound by launches: what batches bring where they bring something.
- `detection`: the detection process as it is deployed, over gRPC, with the photos of `tests/assets/photos`, on this
  machine. On a CPU a batch takes as long as its items one by one; then the batcher runs them one by one, and the
  figures say what its bookkeeping costs.

Figures of each, `batch_1` with batches of at most one and `batched` as it is:

- `images_per_s`: with 32 (`detection`: 8) requests in flight, always; `throughput_ratio`: batched over batch 1.
- `p50_ms`, `p99_ms` at `load_50` and `load_80`: requests that arrive at random (Poisson) at this share of the side's
  own images_per_s, whether or not earlier ones are done; from arrival to reply. `refused`: how many were not answered.
- `mean_batch`: of the same requests.

The last line is one JSON object.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.expert_process import ExpertProcess
from bench.experts import Caller, pictures_for
from gateway.experts import EXPERT_NAMED, KIND_OF
from serving.batcher import Batcher
from serving.channel import open_channel
from serving.errors import PolysightError

FIXED_S, ITEM_S = 0.008, 0.001
MAX_BATCH = 32
LOADS = (50, 80)
_WARM_UP = 10

Ask = Callable[[], Awaitable[int]]
"""One request, with as many others in flight as may be; returns the size of the batch it was in."""


async def measure(ask: Ask, *, in_flight: int, seconds: float) -> dict[str, Any]:
    """One side of the comparison."""
    for _ in range(_WARM_UP):
        await ask()
    rate = await _throughput(ask, in_flight, seconds)
    figures: dict[str, Any] = {"images_per_s": round(rate, 2)}
    for load in LOADS:
        figures[f"load_{load}"] = await _latency(ask, rate * load / 100, seconds)
    return figures


async def _throughput(ask: Ask, in_flight: int, seconds: float) -> float:
    """Requests a second with `in_flight` of them at every moment."""
    begun = time.perf_counter()
    done = 0

    async def one() -> None:
        nonlocal done
        while time.perf_counter() - begun < seconds:
            await ask()
            done += 1

    await asyncio.gather(*(one() for _ in range(in_flight)))
    return done / (time.perf_counter() - begun)


async def _latency(ask: Ask, rate: float, seconds: float) -> dict[str, Any]:
    """Of requests that come at random, `rate` a second."""
    rng = np.random.default_rng(7)
    arrivals = np.cumsum(rng.exponential(1 / rate, max(round(rate * seconds), 20)))
    begun = time.perf_counter()
    walls: list[float] = []
    batches: list[int] = []
    refused = 0

    async def one(arrival: float) -> None:
        nonlocal refused
        await asyncio.sleep(max(0.0, begun + arrival - time.perf_counter()))
        try:
            batches.append(await ask())
        except (grpc.RpcError, PolysightError):
            refused += 1
        else:
            walls.append(time.perf_counter() - begun - arrival)

    await asyncio.gather(*(one(float(arrival)) for arrival in arrivals))
    walls.sort()
    return {
        "p50_ms": round(1e3 * statistics.median(walls), 1),
        "p99_ms": round(1e3 * walls[min(len(walls) - 1, round(0.99 * len(walls)))], 1),
        "mean_batch": round(statistics.fmean(batches), 2),
        "requests": len(arrivals),
        "refused": refused,
    }


async def simulated(max_batch: int, seconds: float) -> dict[str, Any]:
    """The device by the clock, in this process."""

    def run(items: Sequence[int]) -> Sequence[int]:
        time.sleep(FIXED_S + ITEM_S * len(items))
        return items

    batcher = Batcher(run, max_batch=max_batch, max_queue=1024)

    async def ask() -> int:
        return (await batcher.submit(0)).batch_size

    try:
        return await measure(ask, in_flight=32, seconds=seconds)
    finally:
        await batcher.close()


async def _detection(process: ExpertProcess, seconds: float) -> dict[str, Any]:
    channel = open_channel(process.address)
    caller = Caller(KIND_OF[EXPERT_NAMED["detection"]], channel)
    pictures = itertools.cycle(pictures_for("detection"))

    async def ask() -> int:
        return (await caller.ask(next(pictures))).batch_size

    try:
        return await measure(ask, in_flight=8, seconds=seconds)
    finally:
        await channel.close()


def detection(max_batch: int | None, seconds: float) -> dict[str, Any]:
    """The real expert in a process of its own; `max_batch` None leaves its setting alone."""
    settings = {} if max_batch is None else {"DETECTION_MAX_BATCH": str(max_batch)}
    with ExpertProcess("detection", "polysight.vision.v1.DetectionService", settings=settings) as process:
        return asyncio.run(_detection(process, seconds))


def _compared(alone: dict[str, Any], batched: dict[str, Any]) -> dict[str, Any]:
    ratio = batched["images_per_s"] / alone["images_per_s"]
    return {"throughput_ratio": round(ratio, 3), "batch_1": alone, "batched": batched}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description="What do batches bring?")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--only", choices=("simulated", "detection"), help="one of the two devices")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each of the three measurements a side")
    options = parser.parse_args(arguments)
    results: dict[str, dict[str, Any]] = {}
    if options.only != "detection":
        alone = asyncio.run(simulated(1, options.seconds))
        results["simulated"] = _compared(alone, asyncio.run(simulated(MAX_BATCH, options.seconds)))
    if options.only != "simulated":
        alone = detection(1, options.seconds)
        results["detection"] = _compared(alone, detection(None, options.seconds))
    if not options.json:
        Console().print(_table(results))
    print(json.dumps(results))
    return 0


def _table(results: dict[str, dict[str, Any]]) -> Table:
    table = Table(
        "device", "side", "images/s", *(f"p50, p99 ms at {load} %" for load in LOADS), "batch at 80 %"
    )
    for device, result in results.items():
        for side in ("batch_1", "batched"):
            figures = result[side]
            table.add_row(
                device,
                side,
                f"{figures['images_per_s']:g}",
                *(
                    f"{figures[f'load_{load}']['p50_ms']:g}, {figures[f'load_{load}']['p99_ms']:g}"
                    for load in LOADS
                ),
                f"{figures['load_80']['mean_batch']:g}",
            )
    return table


if __name__ == "__main__":
    raise SystemExit(main())
