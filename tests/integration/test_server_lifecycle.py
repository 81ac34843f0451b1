"""The life of a server process: warm-up, health, drain under load, exit codes. Each test runs a real process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from polysight.common.v1 import image_pb2
from polysight.vision.v1 import ocr_pb2, ocr_pb2_grpc
from serving.channel import open_channel

SCRIPT = Path(__file__).with_name("ocr_process.py")
OCR = "polysight.vision.v1.OcrService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Process:
    """A server process, its port, and the log lines it has written so far."""

    child: asyncio.subprocess.Process
    port: int
    lines: list[dict[str, Any]] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def read_log(self) -> None:
        assert self.child.stderr is not None
        async for line in self.child.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.noise.append(line.decode())

    async def logged(self, event: str, timeout_s: float = 20) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s):
            while True:
                for line in self.lines:
                    if line["event"].startswith(event):
                        return line
                if self.child.returncode is not None and self.reader is not None and self.reader.done():
                    raise AssertionError(f"ended without {event!r}: {self.lines} {self.noise}")
                await asyncio.sleep(0.01)

    def tell(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    async def exit_code(self, timeout_s: float = 20) -> int:
        async with asyncio.timeout(timeout_s):
            return await self.child.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def process(warm_up: str = "0", port: int | None = None, **settings: object) -> AsyncIterator[Process]:
    """A server process; killed at the end if it still runs. Settings are given without their prefix."""
    port = port or free_port()
    environment = {f"OCR_{name.upper()}": str(value) for name, value in settings.items()}
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        warm_up,
        env={**os.environ, "OCR_PORT": str(port), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Process(child, port)
    running.reader = asyncio.ensure_future(running.read_log())
    try:
        yield running
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        await running.reader


def sleep_request(seconds: float, number: int) -> ocr_pb2.RecognizeTextRequest:
    return ocr_pb2.RecognizeTextRequest(image=image_pb2.Image(data=f"{seconds} {number}".encode()))


def health_stub(channel: grpc.aio.Channel) -> Any:
    """Untyped: the published stubs know the blocking one only."""
    return health_pb2_grpc.HealthStub(cast(Any, channel))


async def check(channel: grpc.aio.Channel, service: str) -> int:
    reply = await health_stub(channel).Check(
        health_pb2.HealthCheckRequest(service=service), wait_for_ready=True, timeout=10
    )
    return int(reply.status)


async def test_health_follows_the_life_of_the_process() -> None:
    async with process("1", drain_pause_s=1) as server, open_channel(server.address) as channel:
        await server.logged("listening")
        health = health_stub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=OCR), wait_for_ready=True)
        seen = asyncio.ensure_future(collect(watch))
        assert await check(channel, OCR) == await check(channel, "") == NOT_SERVING
        await server.logged("serving")
        assert await check(channel, OCR) == await check(channel, "") == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(channel, "no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        server.tell(signal.SIGTERM)
        await server.logged("draining")
        assert await check(channel, OCR) == await check(channel, "") == NOT_SERVING
        # Calls are still taken during the pause: balancers need time to look away.
        reply = await ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(sleep_request(0, 7), timeout=5)
        assert reply.image_width == 7
        assert await server.exit_code() == 0
        assert await seen == [NOT_SERVING, SERVING, NOT_SERVING]


async def collect(watch: AsyncIterator[health_pb2.HealthCheckResponse]) -> list[int]:
    seen: list[int] = []
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for reply in watch:
            seen.append(int(reply.status))
    return seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_under_load_lets_calls_in_flight_finish(number: signal.Signals) -> None:
    async with process(drain_pause_s=0.2) as server, open_channel(server.address) as channel:
        await server.logged("serving")
        stub = ocr_pb2_grpc.OcrServiceStub(channel)
        calls = [stub.RecognizeText(sleep_request(1.0, index), timeout=15) for index in range(16)]
        await stub.RecognizeText(sleep_request(0, 99), timeout=5)  # so the others are in the server, too
        server.tell(number)
        replies = await asyncio.gather(*calls)
        assert [reply.image_width for reply in replies] == list(range(16))
        assert await server.exit_code() == 0
        stopped = await server.logged("stopped")
        assert stopped["exit_code"] == 0
        assert not [line for line in server.lines if line["level"] in {"warning", "error"}]
        assert server.child.stdout is not None
        assert (await server.child.stdout.read()).decode() == "closed\n"


async def test_a_health_watch_does_not_hold_up_the_shutdown() -> None:
    async with (
        process(drain_pause_s=0, drain_grace_s=15) as server,
        open_channel(server.address, health_service=OCR) as channel,
    ):
        await server.logged("serving")
        await ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(
            sleep_request(0, 1), wait_for_ready=True, timeout=5
        )
        begun = time.monotonic()
        server.tell(signal.SIGTERM)
        assert await server.exit_code() == 0
        assert time.monotonic() - begun < 5


async def test_calls_that_outlast_the_grace_are_cancelled() -> None:
    async with process(drain_pause_s=0, drain_grace_s=0.3) as server, open_channel(server.address) as channel:
        await server.logged("serving")
        call = ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(sleep_request(30, 1))
        await in_flight(server)
        server.tell(signal.SIGTERM)
        assert await server.exit_code() == 0
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_a_second_signal_hastens_the_end() -> None:
    async with (
        process(drain_pause_s=20, drain_grace_s=20) as server,
        open_channel(server.address) as channel,
    ):
        await server.logged("serving")
        call = ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(sleep_request(60, 1))
        await in_flight(server)
        server.tell(signal.SIGTERM)
        await server.logged("draining")
        server.tell(signal.SIGTERM)
        assert await server.exit_code(5) == 0
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_a_second_signal_ends_the_grace_too() -> None:
    async with (
        process(drain_pause_s=0, drain_grace_s=30) as server,
        open_channel(server.address) as channel,
    ):
        await server.logged("serving")
        call = ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(sleep_request(60, 1))
        await in_flight(server)
        server.tell(signal.SIGTERM)
        await server.logged("draining")
        await asyncio.sleep(0.3)
        assert server.child.returncode is None
        server.tell(signal.SIGINT)
        assert await server.exit_code(5) == 0
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def in_flight(server: Process) -> None:
    """Until everything sent so far has been read by the server: a round trip behind it."""
    async with open_channel(server.address) as channel:
        await ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(sleep_request(0.2, 0), timeout=5)


async def test_a_taken_port_is_named_and_ends_the_process_with_1() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        async with process(port=port) as server:
            assert await server.exit_code() == 1
            line = await server.logged("cannot listen on")
            assert f"127.0.0.1:{port}" in line["event"]
            assert "OCR_PORT" in line["event"]


async def test_two_servers_do_not_share_a_port() -> None:
    async with process() as first:
        await first.logged("serving")
        async with process(port=first.port) as second:
            assert await second.exit_code() == 1


async def test_a_taken_metrics_port_is_named_too() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with process(metrics_port=taken.getsockname()[1]) as server:
            assert await server.exit_code() == 1
            line = await server.logged("cannot listen on")
            assert "OCR_METRICS_PORT" in line["event"]


async def test_a_failed_warm_up_ends_the_process_with_1() -> None:
    async with process("fail") as server:
        assert await server.exit_code() == 1
        line = await server.logged("cannot serve")
        assert "RuntimeError: no weights" in line["exception"]
        assert server.child.stdout is not None
        assert (await server.child.stdout.read()).decode() == "closed\n"


async def test_a_signal_during_the_warm_up_is_heard() -> None:
    async with process("60") as server:
        await server.logged("listening")
        server.tell(signal.SIGTERM)
        assert await server.exit_code(5) == 0


@pytest.mark.slow
async def test_a_stuck_thread_does_not_keep_the_process_alive() -> None:
    async with process("stuck", close_timeout_s=1) as server:
        await server.logged("listening")
        server.tell(signal.SIGTERM)
        assert await server.exit_code(20) == 0


async def test_settings_that_do_not_hold_end_the_process_with_2() -> None:
    async with process(drain_grace_s="soon") as server:
        assert await server.exit_code() == 2
    assert [line for line in server.noise if line.startswith("OCR_DRAIN_GRACE_S: ")]


async def test_reflection_and_channelz_tell_of_the_server() -> None:
    async with process() as server, open_channel(server.address) as channel:
        await server.logged("serving")
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast(Any, channel))
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=OCR),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
        ]
        replies = [reply async for reply in stub.ServerReflectionInfo(iter(requests))]
        names = {service.name for service in replies[0].list_services_response.service}
        assert names == {
            OCR,
            "grpc.health.v1.Health",
            "grpc.channelz.v1.Channelz",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        assert all(reply.file_descriptor_response.file_descriptor_proto for reply in replies[1:])
        stub = channelz_pb2_grpc.ChannelzStub(cast(Any, channel))
        reply = await stub.GetServers(channelz_pb2.GetServersRequest())
        assert len(reply.server) == 1


async def test_metrics_are_served_over_http_and_logs_tell_of_calls() -> None:
    metrics_port = free_port()
    async with process(metrics_port=metrics_port) as server, open_channel(server.address) as channel:
        await server.logged("serving")
        await ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(sleep_request(0, 1), timeout=5)
        line = await server.logged("rpc")
        text = await asyncio.to_thread(fetch, f"http://127.0.0.1:{metrics_port}/metrics")
        server.tell(signal.SIGTERM)
        assert await server.exit_code() == 0
    assert f'ocr_rpc_requests_total{{code="OK",method="/{OCR}/RecognizeText"}} 1.0' in text
    assert "ocr_process_resident_memory_bytes" in text
    assert line["service"] == "ocr"
    assert len(line["request_id"]) == len(line["trace_id"]) == 32
    assert line["timestamp"].endswith("Z")
    assert not server.noise  # nothing but JSON on standard error


def fetch(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as reply:
        return str(reply.read().decode())


async def test_the_log_level_is_obeyed() -> None:
    async with process(log_level="error") as server, open_channel(server.address) as channel:
        await ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(
            sleep_request(0, 1), wait_for_ready=True, timeout=20
        )
        server.tell(signal.SIGTERM)
        assert await server.exit_code() == 0
    assert not server.lines


async def test_an_absent_collector_costs_spans_and_nothing_else() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    async with process(otlp_endpoint=endpoint) as server, open_channel(server.address) as channel:
        await server.logged("serving")
        begun = time.monotonic()
        await ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(sleep_request(0, 1), timeout=5)
        assert time.monotonic() - begun < 2
        server.tell(signal.SIGTERM)
        assert await server.exit_code(15) == 0


async def test_spans_reach_the_collector_at_the_latest_when_the_process_ends() -> None:
    received: list[trace_service_pb2.ExportTraceServiceRequest] = []

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):
        async def Export(
            self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
        ) -> trace_service_pb2.ExportTraceServiceResponse:
            received.append(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    collector = grpc.aio.server()
    register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    register(Collector(), collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    await collector.start()
    endpoint = f"http://127.0.0.1:{port}"
    async with process(otlp_endpoint=endpoint) as server, open_channel(server.address) as channel:
        await server.logged("serving")
        await ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(sleep_request(0, 1), timeout=5)
        line = await server.logged("rpc")
        server.tell(signal.SIGTERM)
        assert await server.exit_code(15) == 0
    await collector.stop(0)
    [resource] = [resource for request in received for resource in request.resource_spans]
    attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert attributes["service.name"] == "ocr"
    [span] = [span for scope in resource.scope_spans for span in scope.spans]
    assert span.name == f"{OCR}/RecognizeText"
    assert span.trace_id.hex() == line["trace_id"]


async def test_a_restarted_server_is_found_again_by_the_same_channel() -> None:
    port = free_port()
    async with open_channel(f"127.0.0.1:{port}", health_service=OCR) as channel:
        stub = ocr_pb2_grpc.OcrServiceStub(channel)
        async with process(port=port) as first:
            await first.logged("serving")
            await stub.RecognizeText(sleep_request(0, 1), wait_for_ready=True, timeout=5)
            first.child.kill()
            await first.child.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RecognizeText(sleep_request(0, 2), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.sleep(2)  # long enough for the back-off to grow to its limit
        async with process(port=port) as second:
            await second.logged("serving")
            reply = await stub.RecognizeText(sleep_request(0, 3), wait_for_ready=True, timeout=3)
            assert reply.image_width == 3


@pytest.mark.slow
async def test_a_hung_server_is_given_up_and_used_again_when_it_wakes() -> None:
    async with (
        process() as server,
        open_channel(
            server.address, health_service=OCR, keepalive_s=1, keepalive_timeout_s=1, max_attempts=1
        ) as channel,
    ):
        stub = ocr_pb2_grpc.OcrServiceStub(channel)
        await server.logged("serving")
        await stub.RecognizeText(sleep_request(0, 1), wait_for_ready=True, timeout=5)
        server.tell(signal.SIGSTOP)
        codes: list[grpc.StatusCode] = []
        async with asyncio.timeout(20):
            # Nothing is heard at first, so each call costs its own deadline; then the pings have told, and calls fail
            # at once instead of waiting.
            while grpc.StatusCode.UNAVAILABLE not in codes:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.RecognizeText(sleep_request(0, 2), timeout=0.5)
                codes.append(caught.value.code())
        assert codes[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        server.tell(signal.SIGCONT)
        async with asyncio.timeout(20):
            # A call may still meet the old connection while that is being closed.
            call = stub.RecognizeText(sleep_request(0, 3), wait_for_ready=True, timeout=10)
            while await call.code() is grpc.StatusCode.UNAVAILABLE:
                call = stub.RecognizeText(sleep_request(0, 3), wait_for_ready=True, timeout=10)
        assert (await call).image_width == 3
