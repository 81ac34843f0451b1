"""An expert whose device is lost: typed errors, NOT_SERVING, refusals at once, and an exit that asks for a restart."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from polysight.common.v1 import image_pb2
from polysight.vision.v1 import detection_pb2, detection_pb2_grpc
from serving.channel import open_channel
from serving.errors import error_info, status_from_rpc_error

SCRIPT = Path(__file__).with_name("mortal_process.py")
SERVICE = "polysight.vision.v1.DetectionService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
FATAL, FAULTY, HARMLESS = 200, 100, 0
QUEUED = 4


@dataclass
class Mortal:
    """The process, and a channel to it that tries nothing twice."""

    child: asyncio.subprocess.Process
    channel: grpc.aio.Channel

    @property
    def _health(self) -> Any:  # the published stubs know the blocking one only
        return health_pb2_grpc.HealthStub(cast(Any, self.channel))

    @property
    def stub(self) -> detection_pb2_grpc.DetectionServiceAsyncStub:
        return detection_pb2_grpc.DetectionServiceStub(self.channel)

    async def warm(self) -> None:
        """Wait until it serves."""
        watch = self._health.Watch(
            health_pb2.HealthCheckRequest(service=SERVICE), wait_for_ready=True, timeout=60
        )
        async for reply in watch:
            if reply.status == SERVING:
                watch.cancel()
                return

    async def health(self, service: str = SERVICE) -> int:
        """What it says of itself now."""
        reply = await self._health.Check(
            health_pb2.HealthCheckRequest(service=service), wait_for_ready=True, timeout=30
        )
        return int(reply.status)

    async def detect(self, level: int) -> detection_pb2.DetectResponse:
        file = io.BytesIO()
        Image.new("RGB", (64, 64), (level,) * 3).save(file, "PNG")
        return await self.stub.Detect(
            detection_pb2.DetectRequest(image=image_pb2.Image(data=file.getvalue())), timeout=20
        )

    async def log(self) -> list[dict[str, Any]]:
        """What it logged in all, once it has ended."""
        assert self.child.stderr is not None
        return [json.loads(line) for line in (await self.child.stderr.read()).splitlines()]


@contextlib.asynccontextmanager
async def mortal(*arguments: str, **settings: object) -> AsyncIterator[Mortal]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        *arguments,
        env=os.environ
        | {"DETECTION_PORT": str(port)}
        | {f"DETECTION_{name.upper()}": str(value) for name, value in settings.items()},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with open_channel(f"127.0.0.1:{port}", max_attempts=1) as channel:
            process = Mortal(child, channel)
            await process.warm()
            yield process
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


def refused(error: BaseException) -> tuple[grpc.StatusCode, str, str]:
    """Code, reason and cause that a call ended with."""
    assert isinstance(error, grpc.aio.AioRpcError)
    info = error_info(status_from_rpc_error(error))
    assert info is not None, error
    return error.code(), info.reason, info.metadata.get("cause", "")


LOST = (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "device_lost")


async def test_a_lost_device_ends_calls_health_and_process() -> None:
    async with mortal(drain_pause_s=3) as process:
        fatal = asyncio.ensure_future(process.detect(FATAL))
        await asyncio.sleep(0.1)  # it is on the device, the others wait behind it
        behind = [process.detect(HARMLESS) for _ in range(QUEUED)]
        ended = await asyncio.gather(fatal, *behind, return_exceptions=True)
        assert {refused(error) for error in ended if isinstance(error, BaseException)} == {LOST}
        assert len([error for error in ended if isinstance(error, BaseException)]) == 1 + QUEUED
        assert await process.health() == await process.health("") == NOT_SERVING
        begun = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await process.detect(HARMLESS)
        assert refused(caught.value) == LOST
        assert time.monotonic() - begun < 1
        async with asyncio.timeout(20):
            assert await process.child.wait() == 3
        log = await process.log()
    assert [line["level"] for line in log if line["event"] == "device lost"] == ["error"]
    assert "illegal memory access" in str(next(line for line in log if line["event"] == "device lost"))
    assert [line["exit_code"] for line in log if line["event"] == "stopped"] == [3]
    assert not [line for line in log if line["event"] in ("call failed", "closing failed", "cannot serve")]


async def test_a_batch_that_fails_is_no_lost_device() -> None:
    async with mortal(drain_pause_s=0) as process:
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await process.detect(FAULTY)
            assert refused(caught.value)[:2] == (grpc.StatusCode.INTERNAL, "INTERNAL")
            assert await process.health() == SERVING
        assert not (await process.detect(HARMLESS)).detections
        process.child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.child.wait() == 0


@pytest.mark.slow
async def test_a_process_that_cannot_close_a_lost_device_ends_all_the_same() -> None:
    async with mortal("stuck", drain_pause_s=0, drain_grace_s=0, close_timeout_s=1) as process:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await process.detect(FATAL)
        assert refused(caught.value) == LOST
        async with asyncio.timeout(30):
            assert await process.child.wait() == 3
