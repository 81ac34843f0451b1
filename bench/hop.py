"""What does a call cost by itself? A picture there and a small reply back, between two processes, nobody computing.

    python -m bench.hop [--json] [--requests 200] [--kilobytes 150]

A server process that does nothing but answer (`grpc.aio`, with the options of the mesh's servers and none of their
interceptors), and this one, which is busy for some milliseconds between two calls as a caller would be: a core that has
been idle wakes up more slowly than one that has just answered. What `bench.experts` finds beyond it is the mesh's own.

- `aio_ms_p50`: called as the gateway calls, from an event loop.
- `blocking_ms_p50`: called from a plain thread, which waits without an event loop.
- `small_aio_ms_p50`, `small_blocking_ms_p50`: the same with 100 bytes: what remains without a picture.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import grpc
import grpc.aio

from serving.channel import channel_options, open_channel, target
from serving.grpc_server import server_options
from serving.settings import DEFAULT_MAX_MESSAGE_BYTES, ServerSettings

METHOD = "/bench.Hop/Echo"
_REPLY_BYTES = 2000
_BUSY_S = 0.008
_WARM_UP = 10


async def serve() -> None:
    """The server process: prints its port and answers until it is killed."""

    async def answer(_request: bytes, _context: object) -> bytes:
        return bytes(_REPLY_BYTES)

    server = grpc.aio.server(options=server_options(ServerSettings(port=0)))
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Echo": grpc.unary_unary_rpc_method_handler(answer)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Hop", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def busy(seconds: float = _BUSY_S) -> None:
    """Compute for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def from_a_loop(address: str, request: bytes, calls: int) -> list[float]:
    """Seconds of each call from an event loop."""
    seconds = []
    async with open_channel(address, intercepted=False) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        for _ in range(_WARM_UP + calls):
            busy()
            begun = time.perf_counter()
            await call(request, timeout=10)
            seconds.append(time.perf_counter() - begun)
    return seconds[_WARM_UP:]


def from_a_thread(address: str, request: bytes, calls: int) -> list[float]:
    """Seconds of each call that blocks its thread."""
    seconds = []
    with blocking_channel(address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        for _ in range(_WARM_UP + calls):
            busy()
            begun = time.perf_counter()
            call(request, timeout=10)
            seconds.append(time.perf_counter() - begun)
    return seconds[_WARM_UP:]


def blocking_channel(address: str) -> grpc.Channel:
    """A channel with the mesh's options for callers without an event loop."""
    options = channel_options(
        max_message_bytes=DEFAULT_MAX_MESSAGE_BYTES,
        health_service=None,
        max_attempts=3,
        keepalive_s=10.0,
        keepalive_timeout_s=10.0,
    )
    return grpc.insecure_channel(target(address), options=options)


def measure(calls: int, kilobytes: int) -> dict[str, float]:
    """As the module says."""
    with subprocess.Popen([sys.executable, "-m", "bench.hop", "--serve"], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None  # a pipe was asked for
            address = f"127.0.0.1:{int(server.stdout.readline())}"
            told: dict[str, float] = {}
            for prefix, size in (("", kilobytes * 1000), ("small_", 100)):
                request = os.urandom(size)
                seconds = {
                    "aio": asyncio.run(from_a_loop(address, request, calls)),
                    "blocking": from_a_thread(address, request, calls),
                }
                for kind, each in seconds.items():
                    told[f"{prefix}{kind}_ms_p50"] = round(1e3 * statistics.median(each), 2)
            return told
        finally:
            server.kill()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description="What does a call cost by itself?")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--requests", type=int, default=200, help="calls of each kind")
    parser.add_argument("--kilobytes", type=int, default=150, help="size of the picture")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        asyncio.run(serve())
        return 0
    told = measure(options.requests, options.kilobytes)
    if not options.json:
        for name, value in told.items():
            print(f"{name:24} {value:6.2f}")
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
