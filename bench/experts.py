"""What does serving cost an expert? Each over gRPC beside the same graph in a plain loop on the same cores.

    python -m bench.experts [--json] [--experts detection,ocr] [--rounds 3] [--seconds 6]

For every expert: its process as it is deployed (default settings, warmed up), and in this process the same graph with
the same decoding, pre- and post-processing in a loop (`bench.plain_experts`), one picture after the other. Requests are
those that the gateway sends. Pictures: the photos of `tests/assets/photos`; for reading also two drawn pages. The two
sides take turns, so that a busy machine slows both; every round goes through the same pictures.

- `throughput_ratio`: images/s over gRPC with eight requests in flight, divided by the loop's; the median of the rounds.
  The bar is 0.90.
- `added_ms_p50`: one request at a time, picture by picture in turns with the loop: median of (gRPC - loop). Bar: 3 ms.
- `added_legs_ms`: where that is: medians of what each stage took longer than in the loop, by the timings in the reply
  (post-processing with the writing of the reply, which the loop does not do), of the time in the `queue`, and of the
  time in no stage: the `way` there and back (`bench.hop` is the least that it can be), checks, hand-overs of threads.
- `postprocess_share`: in the loop, the time after the network was first asked that is not spent in networks, divided by
  the time in networks. The bar for panoptic and ocr is 0.20.
- `served_postprocess_share`: the same by the timings in the replies, with the writing of the reply counted as
  post-processing.
- `images_per_s`, `p50_ms`, `p99_ms`: of the loop (`plain`), one at a time (`one`) and eight at a time (`eight`).
- `cpu_ms`: processor time an image, of this process in the loop (`plain`) and of the expert's process with eight in
  flight (`eight`): what to compare where others keep the machine busy, since it hardly depends on them.
- `rss_mb`: of the process, when it became ready, and at the end of all this; `mean_batch`: with eight in flight.

The last line is one JSON object, a key an expert.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # as the experts that multiply matrices set it for themselves

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import grpc
import grpc.aio
import psutil
from rich.console import Console
from rich.table import Table

from bench.expert_process import ExpertProcess
from bench.hop import blocking_channel
from bench.plain_experts import CRAYON_GRID, PlainExpert, PlainRun, plain_expert
from bench.text_pages import text_pages
from gateway.experts import (
    EXPERT_NAMED,
    KIND_OF,
    ExpertKind,
    ExpertOptions,
    ImageField,
    RemoteExpert,
    Result,
)
from serving.channel import open_channel
from serving.weights import WeightStore

PHOTOS = Path(__file__).parent.parent / "tests" / "assets" / "photos"
CONCURRENCY = 8
_OPTIONS = ExpertOptions(crayon_grid=CRAYON_GRID)
_TIMEOUT_S = 60.0
# With fewer, the last ones in flight, which have no company, would weigh too much; slow experts are given fewer.
_LEAST_REQUESTS, _LEAST_SLOW_REQUESTS, _SLOW_S = 48, 24, 0.3


def pictures_for(name: str) -> list[bytes]:
    """What an expert is shown: image files."""
    photos = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))]
    if name == "ocr":
        pages = text_pages()
        photos += [pages["receipt"], pages["poster"]]
    return photos


@dataclass(frozen=True)
class Served:
    """One reply: wall seconds as the caller saw them, seconds by stage as the reply says, size of the batch."""

    wall_s: float
    queue_s: float
    preprocess_s: float
    inference_s: float
    postprocess_s: float
    batch_size: int

    @property
    def way_s(self) -> float:
        """Seconds in no stage."""
        return self.wall_s - self.queue_s - self.preprocess_s - self.inference_s - self.postprocess_s


def _served(reply: Result, wall_s: float) -> Served:
    spent = reply.timings
    queue, preprocess, inference, postprocess = (
        stage.ToNanoseconds() / 1e9
        for stage in (spent.queue, spent.preprocess, spent.inference, spent.postprocess)
    )
    return Served(wall_s, queue, preprocess, inference, postprocess, spent.batch_size)


class BlockingCaller:
    """Asks one expert process as plainly as the loop runs: one call at a time, which its thread waits for."""

    def __init__(self, kind: ExpertKind, channel: grpc.Channel) -> None:
        self._options = kind.options(_OPTIONS).SerializeToString()
        self._call: Callable[..., Result] = channel.unary_unary(
            kind.method, request_serializer=None, response_deserializer=kind.parse
        )

    def ask(self, picture: bytes) -> Served:
        """One request. Raises grpc.RpcError."""
        begun = time.perf_counter()
        reply = self._call(ImageField(picture).request(self._options), timeout=_TIMEOUT_S)
        return _served(reply, time.perf_counter() - begun)


class Caller:
    """Asks one expert process as the gateway does, from an event loop."""

    def __init__(self, kind: ExpertKind, channel: grpc.aio.Channel) -> None:
        self._expert = RemoteExpert(kind, channel)

    async def ask(self, picture: bytes) -> Served:
        """One request. Raises grpc.RpcError."""
        begun = time.perf_counter()
        reply = await self._expert.call(ImageField(picture), _OPTIONS, _TIMEOUT_S)
        return _served(reply.result, time.perf_counter() - begun)

    async def crowd(self, pictures: Sequence[bytes], concurrency: int) -> tuple[list[Served], float]:
        """All of `pictures` in turn with `concurrency` requests in flight; the replies, and images/s."""
        waiting = iter(pictures)

        async def one() -> list[Served]:
            return [await self.ask(picture) for picture in waiting]

        begun = time.perf_counter()
        served = [
            reply for part in await asyncio.gather(*(one() for _ in range(concurrency))) for reply in part
        ]
        return served, len(served) / (time.perf_counter() - begun)


@dataclass
class Measured:
    """Everything that was seen of one expert."""

    plain: list[PlainRun]
    one: list[Served]
    eight: list[Served]
    plain_rates: list[float]
    eight_rates: list[float]
    plain_cpu_s: list[float]
    eight_cpu_s: list[float]
    rss_mb: tuple[float, float]

    def summary(self) -> dict[str, Any]:
        """As the module says."""
        pairs = list(zip(self.one, self.plain, strict=False))  # what the loop did beyond them has no partner
        one_rate = 1 / statistics.fmean(reply.wall_s for reply in self.one)
        walls = {
            "plain": [run.wall_s for run in self.plain],
            "one": [reply.wall_s for reply in self.one],
            "eight": [reply.wall_s for reply in self.eight],
        }
        rates = {
            "plain": statistics.median(self.plain_rates),
            "one": one_rate,
            "eight": statistics.median(self.eight_rates),
        }
        ratios = [served / plain for served, plain in zip(self.eight_rates, self.plain_rates, strict=True)]
        return {
            "throughput_ratio": round(statistics.median(ratios), 3),
            "added_ms_p50": _median_ms(served.wall_s - plain.wall_s for served, plain in pairs),
            "added_legs_ms": {
                "queue": _median_ms(served.queue_s for served in self.one),
                "preprocess": _median_ms(served.preprocess_s - plain.preprocess_s for served, plain in pairs),
                "inference": _median_ms(served.inference_s - plain.engine_s for served, plain in pairs),
                "postprocess": _median_ms(
                    served.postprocess_s - plain.postprocess_s for served, plain in pairs
                ),
                "way": _median_ms(served.way_s for served in self.one),
            },
            "postprocess_share": round(
                sum(run.postprocess_s for run in self.plain) / sum(run.engine_s for run in self.plain), 3
            ),
            "served_postprocess_share": round(
                sum(reply.postprocess_s for reply in self.one) / sum(reply.inference_s for reply in self.one),
                3,
            ),
            "images_per_s": {side: round(rate, 2) for side, rate in rates.items()},
            "p50_ms": {side: _percentile_ms(seconds, 0.50) for side, seconds in walls.items()},
            "p99_ms": {side: _percentile_ms(seconds, 0.99) for side, seconds in walls.items()},
            "cpu_ms": {
                "plain": round(1e3 * statistics.median(self.plain_cpu_s), 1),
                "eight": round(1e3 * statistics.median(self.eight_cpu_s), 1),
            },
            "mean_batch": round(statistics.fmean(reply.batch_size for reply in self.eight), 2),
            "rss_mb": [round(size) for size in self.rss_mb],
            "requests": len(self.one) + len(self.eight),
        }


def _median_ms(seconds: Iterable[float]) -> float:
    return round(1e3 * statistics.median(seconds), 2)


def _percentile_ms(seconds: Sequence[float], share: float) -> float:
    ordered = sorted(seconds)
    return round(1e3 * ordered[min(len(ordered) - 1, round(share * len(ordered)))], 1)


def pair_up(
    caller: BlockingCaller, plain: PlainExpert, pictures: Sequence[bytes], seen: Measured, *, seconds: float
) -> None:
    """Each picture to both sides, in turns, twice at least and for about `seconds`."""
    for picture in pictures:
        plain.run(picture)
        caller.ask(picture)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds or len(seen.one) < 2 * len(pictures):
        for number, picture in enumerate(pictures):
            if number % 2:
                seen.one.append(caller.ask(picture))
                seen.plain.append(plain.run(picture))
            else:
                seen.plain.append(plain.run(picture))
                seen.one.append(caller.ask(picture))


async def measure(
    kind: ExpertKind, process: ExpertProcess, plain: PlainExpert, *, rounds: int, seconds: float
) -> Measured:
    """Pairs first, then rounds of the loop and of the crowd, each about `seconds` long."""
    pictures = pictures_for(kind.name)
    server = psutil.Process(process.pid)
    before = server.memory_info().rss / 2**20
    seen = Measured([], [], [], [], [], [], [], (before, before))
    with blocking_channel(process.address) as alone:
        pair_up(BlockingCaller(kind, alone), plain, pictures, seen, seconds=2 * seconds)
    channel = open_channel(process.address, intercepted=False)  # as the gateway does
    try:
        caller = Caller(kind, channel)
        await caller.crowd(pictures, CONCURRENCY)
        mean_s = statistics.fmean(run.wall_s for run in seen.plain)
        passes = max(round(seconds / mean_s / len(pictures)), 1)
        least = _LEAST_REQUESTS if mean_s < _SLOW_S else _LEAST_SLOW_REQUESTS
        crowd_passes = max(passes, -(-least // len(pictures)))
        for _ in range(rounds):
            begun, cpu = time.perf_counter(), time.process_time()
            runs = [plain.run(picture) for _ in range(passes) for picture in pictures]
            seen.plain_rates.append(len(runs) / (time.perf_counter() - begun))
            seen.plain_cpu_s.append((time.process_time() - cpu) / len(runs))
            seen.plain += runs
            cpu = _cpu_s(server)
            served, rate = await caller.crowd(pictures * crowd_passes, CONCURRENCY)
            seen.eight += served
            seen.eight_rates.append(rate)
            seen.eight_cpu_s.append((_cpu_s(server) - cpu) / len(served))
    finally:
        await channel.close()
    seen.rss_mb = (before, server.memory_info().rss / 2**20)
    return seen


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def run_expert(name: str, store: WeightStore, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure the expert of that name, one of `EXPERT_NAMED`."""
    kind = KIND_OF[EXPERT_NAMED[name]]
    service = kind.method.removeprefix("/").partition("/")[0]
    plain = plain_expert(name, store)
    try:
        with ExpertProcess(name, service) as process:
            measured = asyncio.run(measure(kind, process, plain, rounds=rounds, seconds=seconds))
    finally:
        plain.close()
    return measured.summary()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description="What does serving cost an expert?")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--experts", default=",".join(EXPERT_NAMED), help="names, separated by commas")
    parser.add_argument("--rounds", type=int, default=3, help="of the loop and the crowd in turns")
    parser.add_argument("--seconds", type=float, default=6.0, help="about how long each of them takes")
    options = parser.parse_args(arguments)
    names = options.experts.split(",")
    if unknown := sorted(set(names) - EXPERT_NAMED.keys()):
        parser.error(f"no expert is called {', '.join(unknown)}; there are {', '.join(EXPERT_NAMED)}")
    cv2.setNumThreads(1)  # as in the expert processes
    store = WeightStore()
    results = {
        name: run_expert(name, store, rounds=options.rounds, seconds=options.seconds) for name in names
    }
    if not options.json:
        Console().print(_table(results))
    print(json.dumps(results))
    return 0


def _table(results: dict[str, dict[str, Any]]) -> Table:
    table = Table(
        "expert", "ratio at 8", "added ms", "post/net", "post/net served", "images/s at 8", "p99 ms at 8"
    )
    for name, result in results.items():
        table.add_row(
            name,
            *(
                f"{result[key]:g}"
                for key in (
                    "throughput_ratio",
                    "added_ms_p50",
                    "postprocess_share",
                    "served_postprocess_share",
                )
            ),
            f"{result['images_per_s']['eight']:g}",
            f"{result['p99_ms']['eight']:g}",
        )
    return table


if __name__ == "__main__":
    raise SystemExit(main())
