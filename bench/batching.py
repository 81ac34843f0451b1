"""What do batches bring? Throughput against batch 1, and latency at half and at four fifths of the load.

    python -m bench.batching [--json] [--only simulated|detection] [--seconds 6]

Twice the same measurement, through the batcher of the experts (`serving.batcher`):

- `simulated`: a device that takes 8 ms a batch and 1 ms an item, by the clock, as a GPU does on which a small network
  is bound by launches: what batches bring where they bring something.
- `detection`: the detection process as it is deployed, over gRPC, with the photos of `tests/assets/photos`, on this
  machine. On a CPU a batch takes as long as its items one by one; then the batcher runs them one by one, and the
  figures say what its bookkeeping costs.

Figures of each, `batch_1` with batches of at most one and `batched` as it is. The two sides are up at the same time and
measured in turns, so that whatever else the machine does slows both:

- `images_per_s`: with 32 (`detection`: 8) requests in flight, always; the median of three rounds. `throughput_ratio`:
  batched over batch 1, the median of the rounds' own ratios.
- `p50_ms`, `p99_ms` at `load_50` and `load_80`: requests that arrive at random (Poisson) at this share of the side's
  own images_per_s, whether or not earlier ones are done; from arrival to reply. `refused`: how many were not answered.
  p99 of fewer than a hundred `requests` is the slowest of them. Null where all were refused.
- `mean_batch`: of the same requests.

The last line is one JSON object. The whole takes a minute and a half, and what its processes need to start.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import asyncio
import itertools
import json
import math
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
ROUNDS = 3

Ask = Callable[[], Awaitable[int]]
"""One request, with as many others in flight as may be; returns the size of the batch it was in."""


async def measure(alone: Ask, batched: Ask, *, in_flight: int, seconds: float) -> dict[str, Any]:
    """Both sides in turns; `seconds` for each of a side's three measurements: throughput, and two loads."""
    sides = {"batch_1": alone, "batched": batched}
    for ask in sides.values():
        for _ in range(_WARM_UP):
            await ask()
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(ROUNDS):
        for side, ask in sides.items():
            rates[side].append(await _throughput(ask, in_flight, seconds / ROUNDS))
    ratios = [after / before for before, after in zip(rates["batch_1"], rates["batched"], strict=True)]
    figures: dict[str, dict[str, Any]] = {
        side: {"images_per_s": round(statistics.median(rates[side]), 2)} for side in sides
    }
    for load in LOADS:
        for side, ask in sides.items():
            rate = statistics.median(rates[side]) * load / 100
            figures[side][f"load_{load}"] = await latency(ask, rate, seconds)
    return {"throughput_ratio": round(statistics.median(ratios), 3), **figures}


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


async def latency(ask: Ask, rate: float, seconds: float) -> dict[str, Any]:
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
    return {
        "p50_ms": _percentile_ms(walls, 0.50),
        "p99_ms": _percentile_ms(walls, 0.99),
        "mean_batch": round(statistics.fmean(batches), 2) if batches else None,
        "requests": len(arrivals),
        "refused": refused,
    }


def _percentile_ms(walls: Sequence[float], share: float) -> float | None:
    """The least wall time that `share` of the requests did not exceed."""
    if not walls:
        return None
    return round(1e3 * sorted(walls)[math.ceil(share * len(walls)) - 1], 1)


async def simulated(seconds: float) -> dict[str, Any]:
    """The device by the clock, in this process."""

    def run(items: Sequence[int]) -> Sequence[int]:
        time.sleep(FIXED_S + ITEM_S * len(items))
        return items

    def asking(batcher: Batcher[int, int]) -> Ask:
        async def ask() -> int:
            return (await batcher.submit(0)).batch_size

        return ask

    alone = Batcher(run, max_batch=1, max_queue=1024)
    batched = Batcher(run, max_batch=MAX_BATCH, max_queue=1024)
    try:
        return await measure(asking(alone), asking(batched), in_flight=32, seconds=seconds)
    finally:
        await alone.close()
        await batched.close()


async def _detection(alone: ExpertProcess, batched: ExpertProcess, seconds: float) -> dict[str, Any]:
    pictures = itertools.cycle(pictures_for("detection"))

    def asking(channel: grpc.aio.Channel) -> Ask:
        caller = Caller(KIND_OF[EXPERT_NAMED["detection"]], channel)

        async def ask() -> int:
            return (await caller.ask(next(pictures))).batch_size

        return ask

    channels = [open_channel(process.address) for process in (alone, batched)]
    try:
        return await measure(*map(asking, channels), in_flight=8, seconds=seconds)
    finally:
        for channel in channels:
            await channel.close()


def detection(seconds: float) -> dict[str, Any]:
    """The real expert, twice in a process of its own: with batches of one, and with its own settings."""
    service = "polysight.vision.v1.DetectionService"
    with (
        ExpertProcess("detection", service, settings={"DETECTION_MAX_BATCH": "1"}) as alone,
        ExpertProcess("detection", service) as batched,
    ):
        return asyncio.run(_detection(alone, batched, seconds))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description="What do batches bring?")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--only", choices=("simulated", "detection"), help="one of the two devices")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each of the three measurements a side")
    options = parser.parse_args(arguments)
    results: dict[str, dict[str, Any]] = {}
    if options.only != "detection":
        results["simulated"] = asyncio.run(simulated(options.seconds))
    if options.only != "simulated":
        results["detection"] = detection(options.seconds)
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
                    f"{figures[f'load_{load}']['p50_ms']}, {figures[f'load_{load}']['p99_ms']}"
                    for load in LOADS
                ),
                f"{figures['load_80']['mean_batch']}",
            )
    return table


if __name__ == "__main__":
    raise SystemExit(main())
