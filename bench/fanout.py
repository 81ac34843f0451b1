"""What does the gateway add to its slowest expert?

    python -m bench.fanout [--json] [--requests 200] [--seconds 20]

Seven processes on this machine: four dummy experts (`bench.dummies`: bare gRPC servers that take 20 to 40 ms a
picture, by the clock and not by computing, and give replies of realistic size), a dummy language model server, the real
gateway (`python -m gateway`), and this client. One request at a time, a 150 kB JPEG, different each time.

    added = wall time of Perceive, as this client sees it - the longest of its four expert calls, as its reports say

What remains is the gateway's: the hop to it and back with the picture and the reply, checks, words. Its reports count
each call from the moment when all begin, so what four calls at once cost one another is not in `added`. That is
measured besides, picture by picture, in turns: for every picture it is known which expert will take longest, and

    over_direct = wall time of Perceive - wall time of calling that slowest expert alone, directly

- `added_ms_p50`, `added_ms_p99`: the bar is 5 ms at the median.
- `over_direct_ms_p50`: the second difference. Four pictures sent at the same moment from one process to four others
  share its event loop and this machine's cores; with two of them, bare gRPC without a gateway's work needs 2 ms more
  for four calls than for one.
- `gateway_cpu_ms`: user and system time of the gateway process per request.
- `perceive_ms_p50`, `slowest_ms_p50`: wall times of Perceive and of the direct call.
- `hop_ms_p50`: the direct call less the time that the dummy slept: what one call with such a picture costs here. A
  gateway adds one such hop whatever it does, so on a busy or slow machine read the others against this one.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import time
from collections.abc import Mapping

import grpc.aio
import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from bench.dummies import delay_s
from bench.dummy_processes import DummyProcesses
from gateway.experts import KINDS, ExpertOptions, ImageField, RemoteExpert
from polysight.gateway.v1 import polysight_pb2, polysight_pb2_grpc
from serving.channel import open_channel

WARM_UP = 20
START_S = 90.0


def photo(kilobytes: int = 150) -> bytes:
    """A JPEG of 810 x 1080 pixels with as much detail as makes it just `kilobytes` large."""
    noise = np.random.default_rng(7).normal(0, 1, (1080, 810, 3))
    slopes = np.linspace(60, 190, 810)[None, :, None]
    least, most = 0.0, 64.0
    while most - least > 0.25:
        detail = (least + most) / 2
        file = io.BytesIO()
        pixels = np.clip(slopes + detail * noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(file, "JPEG", quality=80)
        if file.tell() < kilobytes * 1000:
            least = detail
        else:
            most, picture = detail, file.getvalue()
    return picture


class Client:
    """Times both ways to the slowest expert."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._channels: list[grpc.aio.Channel] = []
        self._experts = {
            kind.expert: RemoteExpert(kind, self._open(ports[kind.name], intercepted=False)) for kind in KINDS
        }
        self._polysight: polysight_pb2_grpc.PolysightServiceAsyncStub = (
            polysight_pb2_grpc.PolysightServiceStub(self._open(ports["gateway"]))
        )

    def _open(self, port: int, *, intercepted: bool = True) -> grpc.aio.Channel:
        channel = open_channel(f"127.0.0.1:{port}", intercepted=intercepted)
        self._channels.append(channel)
        return channel

    async def close(self) -> None:
        """Hang up."""
        for channel in self._channels:
            await channel.close()

    async def ready(self, image: bytes) -> None:
        """Wait until the gateway answers with all experts; raises TimeoutError."""
        async with asyncio.timeout(START_S):
            while True:
                try:
                    await self.perceive(image)
                except (grpc.aio.AioRpcError, RuntimeError):
                    await asyncio.sleep(0.2)
                else:
                    return

    async def perceive(self, image: bytes) -> tuple[float, float]:
        """Seconds that Perceive takes, and its slowest expert's as the gateway saw it.

        RuntimeError if an expert is missing.
        """
        request = polysight_pb2.PerceiveRequest()
        request.image.data = image
        begun = time.perf_counter()
        response = await self._polysight.Perceive(request, timeout=30)
        took = time.perf_counter() - begun
        if any(report.outcome != polysight_pb2.OUTCOME_OK for report in response.reports):
            raise RuntimeError("an expert is missing")
        return took, max(report.elapsed.ToNanoseconds() for report in response.reports) / 1e9

    async def slowest(self, image: bytes) -> float:
        """Seconds that the expert which takes longest over `image` takes when it is called alone."""
        expert = max(self._experts, key=lambda kind: delay_s(kind, image))
        begun = time.perf_counter()
        await self._experts[expert].call(ImageField(image), ExpertOptions(crayon_grid=(35, 35)), 30.0)
        return time.perf_counter() - begun


async def measure(
    ports: Mapping[str, int], gateway: psutil.Process, requests: int, seconds: float
) -> dict[str, float]:
    """Up to `requests` pictures, or as many as fit in `seconds`."""
    client = Client(ports)
    try:
        base = photo()
        await client.ready(base)
        for number in range(WARM_UP):
            await client.perceive(base + number.to_bytes(8, "big"))
            await client.slowest(base + number.to_bytes(8, "big"))
        perceived: list[tuple[float, float]] = []
        alone: list[float] = []
        hops: list[float] = []
        cpu_before, begun = gateway.cpu_times(), time.perf_counter()
        for number in range(WARM_UP, WARM_UP + requests):
            image = base + number.to_bytes(8, "big")
            if number % 2:
                perceived.append(await client.perceive(image))
                alone.append(await client.slowest(image))
            else:
                alone.append(await client.slowest(image))
                perceived.append(await client.perceive(image))
            hops.append(alone[-1] - max(delay_s(kind.expert, image) for kind in KINDS))
            if time.perf_counter() - begun > seconds:
                break
        cpu_after = gateway.cpu_times()
    finally:
        await client.close()
    added = sorted(through - slowest for through, slowest in perceived)
    over = [through - direct for (through, _), direct in zip(perceived, alone, strict=True)]
    cpu_s = (cpu_after.user + cpu_after.system) - (cpu_before.user + cpu_before.system)
    return {
        "added_ms_p50": round(1000 * statistics.median(added), 3),
        "added_ms_p99": round(1000 * added[min(len(added) - 1, round(0.99 * len(added)))], 3),
        "over_direct_ms_p50": round(1000 * statistics.median(over), 3),
        "gateway_cpu_ms": round(1000 * cpu_s / len(added), 3),
        "perceive_ms_p50": round(1000 * statistics.median(through for through, _ in perceived), 3),
        "slowest_ms_p50": round(1000 * statistics.median(alone), 3),
        "hop_ms_p50": round(1000 * statistics.median(hops), 3),
        "requests": len(added),
        "image_bytes": len(image),
    }


def main() -> None:
    """Measure, and print a table or one line of JSON."""
    parser = argparse.ArgumentParser(description="What does the gateway add to its slowest expert?")
    parser.add_argument("--json", action="store_true", help="only one JSON object, on the last line")
    parser.add_argument("--requests", type=int, default=200, help="at most so many pictures (default 200)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="measure no longer than this (default 20)"
    )
    arguments = parser.parse_args()
    with DummyProcesses() as mesh:
        gateway = psutil.Process(mesh.pid("gateway"))
        result = asyncio.run(measure(mesh.ports, gateway, arguments.requests, arguments.seconds))
    if not arguments.json:
        table = Table("what", "value", title="The gateway among dummy experts")
        for name, value in result.items():
            table.add_row(name, f"{value:g}")
        Console().print(table)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
