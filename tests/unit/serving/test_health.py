"""The health service on its own: every watcher hears of every change, and nobody waits after closing."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from grpc_health.v1 import health_pb2

from serving.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Health

OCR = "polysight.vision.v1.OcrService"


def watch(health: Health, service: str) -> tuple[list[int], asyncio.Task[None]]:
    """What a watcher has been told so far, and its task."""
    told: list[int] = []

    async def listen() -> None:
        async for reply in health.Watch(health_pb2.HealthCheckRequest(service=service), cast(Any, None)):
            told.append(reply.status)

    return told, asyncio.ensure_future(listen())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_watchers_hear_of_each_change_once_and_of_the_end() -> None:
    health = Health([OCR])
    told, task = watch(health, OCR)
    overall, overall_task = watch(health, "")
    await settle()
    await health.set_serving(True)
    await settle()
    await health.set_serving(True)
    await settle()
    await health.close()
    await asyncio.wait_for(asyncio.gather(task, overall_task), 5)
    assert told == overall == [NOT_SERVING, SERVING, NOT_SERVING]


async def test_an_unknown_service_can_be_watched() -> None:
    health = Health([OCR])
    told, task = watch(health, "no.such.Service")
    await settle()
    await health.set_serving(True)
    await settle()
    await health.close()
    await asyncio.wait_for(task, 5)
    assert told == [SERVICE_UNKNOWN]


async def test_closed_is_for_good() -> None:
    health = Health([OCR])
    await health.close()
    await health.set_serving(True)
    reply = await health.Check(health_pb2.HealthCheckRequest(service=OCR), cast(Any, None))
    assert reply.status == NOT_SERVING
    told, task = watch(health, OCR)
    await asyncio.wait_for(task, 5)
    assert told == [NOT_SERVING]


async def test_a_watcher_that_leaves_is_forgotten() -> None:
    health = Health([OCR])
    _, task = watch(health, OCR)
    await settle()
    task.cancel()
    await settle()
    assert task.cancelled()
    await asyncio.wait_for(health.set_serving(True), 5)
