"""Channels against real servers: retries, balancing, health, hung peers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from polysight.common.v1 import image_pb2
from polysight.vision.v1 import ocr_pb2, ocr_pb2_grpc
from serving.channel import open_channel
from serving.errors import ShuttingDownError
from serving.grpc_server import Server, Servicer
from serving.settings import ServerSettings
from serving.telemetry.metrics import Metrics

OCR = "polysight.vision.v1.OcrService"
Context = grpc.aio.ServicerContext[Any, Any]


class MoodyOcr(ocr_pb2_grpc.OcrServiceServicer):
    """Answers with its own number; the first `failures` calls fail as UNAVAILABLE."""

    def __init__(self, number: int, failures: int = 0, delay_s: float = 0) -> None:
        self.number = number
        self.delay_s = delay_s
        self.failures = failures
        self.calls = 0

    async def RecognizeText(
        self, request: ocr_pb2.RecognizeTextRequest, context: Context
    ) -> ocr_pb2.RecognizeTextResponse:
        self.calls += 1
        if self.calls <= self.failures:
            raise ShuttingDownError("going")
        await asyncio.sleep(self.delay_s)
        return ocr_pb2.RecognizeTextResponse(image_width=self.number, image_height=len(request.image.data))

    async def Describe(
        self, request: ocr_pb2.OcrServiceDescribeRequest, context: Context
    ) -> ocr_pb2.OcrServiceDescribeResponse:
        return ocr_pb2.OcrServiceDescribeResponse()


@contextlib.asynccontextmanager
async def serving(servicer: MoodyOcr, **settings: Any) -> AsyncIterator[Server]:
    server = Server(
        settings=ServerSettings(port=0, drain_grace_s=1, **settings),
        servicers=[
            Servicer(OCR, lambda server: ocr_pb2_grpc.add_OcrServiceServicer_to_server(servicer, server))
        ],
        metrics=Metrics("ocr"),
    )
    async with server:
        await server.ready()
        yield server


def request(size: int = 1) -> ocr_pb2.RecognizeTextRequest:
    return ocr_pb2.RecognizeTextRequest(image=image_pb2.Image(data=bytes(size)))


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_an_unavailable_call_is_tried_again_whatever_its_size(size: int) -> None:
    ocr = MoodyOcr(1, failures=2)
    async with serving(ocr) as server, open_channel(server.address) as channel:
        reply = await ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(request(size), timeout=10)
    assert reply.image_height == size
    assert ocr.calls == 3


async def test_attempts_are_bounded() -> None:
    ocr = MoodyOcr(1, failures=100)
    async with serving(ocr) as server, open_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(request(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ocr.calls == 3


async def test_calls_go_round_and_leave_out_who_is_not_serving() -> None:
    first, second = MoodyOcr(1), MoodyOcr(2)
    async with serving(first) as one, serving(second) as two:
        both = f"ipv4:{one.address},{two.address}"
        async with open_channel(both, health_service=OCR) as channel:
            stub = ocr_pb2_grpc.OcrServiceStub(channel)
            seen: Counter[int] = Counter()
            async with asyncio.timeout(10):
                while len(seen) < 2:  # the second connection may come a little later
                    seen[(await stub.RecognizeText(request(), timeout=5)).image_width] += 1
            shares = Counter([(await stub.RecognizeText(request())).image_width for _ in range(20)])
            assert shares == {1: 10, 2: 10}
            await one.not_ready()
            await asyncio.sleep(0.2)
            shares = Counter([(await stub.RecognizeText(request())).image_width for _ in range(20)])
            assert shares == {2: 20}


async def test_a_message_above_the_limit_is_refused_and_the_next_one_is_not() -> None:
    async with (
        serving(MoodyOcr(1), max_message_bytes=100_000) as server,
        open_channel(server.address) as channel,
    ):
        stub = ocr_pb2_grpc.OcrServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RecognizeText(request(200_000), timeout=5)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.RecognizeText(request(90_000), timeout=5)).image_width == 1


async def test_frequent_pings_are_no_reason_to_hang_up() -> None:
    """Without its options for pings a server ends the connection, and this call with it ("too many pings").

    It counts a few before it does, and a client sends one a second at most.
    """
    async with (
        serving(MoodyOcr(1, delay_s=6)) as server,
        open_channel(server.address, keepalive_s=0.1, max_attempts=1) as channel,
    ):
        reply = await ocr_pb2_grpc.OcrServiceStub(channel).RecognizeText(request(), timeout=10)
        assert reply.image_width == 1


async def test_connections_are_asked_to_reconnect_without_losing_calls() -> None:
    """So that new replicas get traffic."""
    async with (
        serving(MoodyOcr(1), max_connection_age_s=0.3, max_connection_age_grace_s=1) as server,
        open_channel(server.address, max_attempts=1) as channel,
    ):
        stub = ocr_pb2_grpc.OcrServiceStub(channel)
        for _ in range(40):
            assert (await stub.RecognizeText(request(), timeout=5)).image_width == 1
            await asyncio.sleep(0.03)
