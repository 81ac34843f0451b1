"""One image through decoding, preprocessing, the device and postprocessing: in order, timed, cancellable."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from PIL import Image as Pillow

from serving.errors import DeadlineUnreachableError, ImageCorruptError, QueueFullError, ShuttingDownError
from serving.expert import Stages
from serving.image import ImageLimits
from serving.request_id import current_request_id, set_request_id
from serving.telemetry.metrics import Metrics


def png(value: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (size, size), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


class Device:
    """Adds one to each number; can be held, and remembers what it saw."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def infer(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.set()
        assert self.free.wait(10)
        return [item + 1 for item in items]


def first_pixel(image: Any) -> int:
    return int(image[0, 0, 0])


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("ocr")


@pytest.fixture
async def stages(device: Device, metrics: Metrics) -> AsyncIterator[Stages[int, int]]:
    made = Stages[int, int](device.infer, metrics=metrics, max_batch=4, max_queue=8)
    yield made
    device.free.set()
    await made.close()


async def test_an_image_goes_through_all_stages(stages: Stages[int, int], metrics: Metrics) -> None:
    def slow_post(raw: int) -> str:
        time.sleep(0.02)
        return f"saw {raw}"

    result, timings = await stages.run(png(7), first_pixel, slow_post)
    assert result == "saw 8"
    assert timings.batch_size == 1
    assert timings.preprocess_s > 0
    assert timings.inference_s > 0
    assert 0.02 <= timings.postprocess_s < 1
    assert metrics.value("ocr_stage_seconds_count", {"stage": "inference"}) == 1
    assert metrics.value("ocr_batch_size_count") == 1


async def test_each_caller_gets_its_own_result_from_a_shared_batch(
    stages: Stages[int, int], device: Device
) -> None:
    device.free.clear()
    calls = [asyncio.ensure_future(stages.run(png(n), first_pixel, lambda raw: raw)) for n in range(5)]
    await asyncio.to_thread(device.entered.wait, 5)
    await asyncio.sleep(0.2)
    device.free.set()
    results = await asyncio.gather(*calls)
    assert [result for result, _ in results] == [1, 2, 3, 4, 5]
    assert sum(len(batch) for batch in device.batches) == 5
    assert len(device.batches) < 5
    assert max(timings.batch_size for _, timings in results) == max(map(len, device.batches))
    waited = [timings.queue_s for _, timings in results if timings.batch_size > 1]
    assert max(waited) > 0.05


async def test_a_bad_image_never_reaches_the_device(stages: Stages[int, int], device: Device) -> None:
    with pytest.raises(ImageCorruptError):
        await stages.run(png(1, 64)[:60], first_pixel, str)
    assert not device.batches


async def test_image_limits_hold(device: Device, metrics: Metrics) -> None:
    limited = Stages[int, int](
        device.infer, metrics=metrics, max_batch=1, max_queue=1, limits=ImageLimits(max_side=4)
    )
    with pytest.raises(Exception, match="4"):
        await limited.run(png(1), first_pixel, str)
    await limited.close()


async def test_a_stage_that_raises_fails_its_own_call_only(stages: Stages[int, int]) -> None:
    def broken(_: Any) -> int:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        await stages.run(png(1), broken, str)
    with pytest.raises(ZeroDivisionError):
        await stages.run(png(1), first_pixel, broken)
    assert (await stages.run(png(1), first_pixel, str))[0] == "2"


async def test_a_passed_deadline_stops_before_the_device(stages: Stages[int, int], device: Device) -> None:
    with pytest.raises(DeadlineUnreachableError):
        await stages.run(png(1), first_pixel, str, 0.0)

    def slow(image: Any) -> int:
        time.sleep(0.1)
        return first_pixel(image)

    with pytest.raises(DeadlineUnreachableError):
        await stages.run(png(1), slow, str, 0.05)
    assert not device.batches


async def test_a_full_queue_refuses(stages: Stages[int, int], device: Device) -> None:
    device.free.clear()
    first = asyncio.ensure_future(stages.run(png(0), first_pixel, str))
    await asyncio.to_thread(device.entered.wait, 5)
    waiting = [asyncio.ensure_future(stages.run(png(1), first_pixel, str)) for _ in range(8)]
    await asyncio.sleep(0.2)
    with pytest.raises(QueueFullError):
        await stages.run(png(2), first_pixel, str)
    device.free.set()
    await asyncio.gather(first, *waiting)


async def test_a_cancelled_call_leaves_the_queue(stages: Stages[int, int], device: Device) -> None:
    device.free.clear()
    first = asyncio.ensure_future(stages.run(png(0), first_pixel, str))
    await asyncio.to_thread(device.entered.wait, 5)
    second = asyncio.ensure_future(stages.run(png(1), first_pixel, str))
    await asyncio.sleep(0.2)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    device.free.set()
    await first
    await asyncio.sleep(0.05)
    assert device.batches == [[0]]


async def test_the_request_id_is_known_in_the_threads(stages: Stages[int, int]) -> None:
    set_request_id("order-66")
    seen: list[str] = []

    def look(value: Any) -> int:
        seen.append(current_request_id())
        return 0

    await stages.run(png(1), look, look)
    assert seen == ["order-66", "order-66"]


async def test_closing_refuses_new_images(device: Device, metrics: Metrics) -> None:
    stages = Stages[int, int](device.infer, metrics=metrics, max_batch=1, max_queue=1)
    await stages.run(png(1), first_pixel, str)
    await stages.close()
    with pytest.raises(ShuttingDownError):
        await stages.run(png(1), first_pixel, str)


async def test_an_image_that_is_alone_stays_on_one_thread(stages: Stages[int, int]) -> None:
    threads: list[int] = []

    def here(value: Any) -> int:
        threads.append(threading.get_ident())
        return 1

    await stages.run(png(1), here, here)
    await stages.run(png(1), here, here)
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


async def test_postprocessing_does_not_hold_the_device_when_others_have_come(
    stages: Stages[int, int], device: Device
) -> None:
    device.free.clear()
    threads: list[str] = []

    def post(raw: int) -> int:
        threads.append(threading.current_thread().name)
        return raw

    first = asyncio.ensure_future(stages.run(png(1), first_pixel, post))
    await asyncio.to_thread(device.entered.wait, 5)
    second = asyncio.ensure_future(stages.run(png(2), first_pixel, post))
    await asyncio.sleep(0.1)
    device.free.set()
    assert [result for result, _ in await asyncio.gather(first, second)] == [2, 3]
    assert all(name.startswith("stage") for name in threads)


async def test_who_leaves_before_the_device_never_reaches_it(
    stages: Stages[int, int], device: Device
) -> None:
    decoding, go_on = threading.Event(), threading.Event()

    def slow(image: Any) -> int:
        decoding.set()
        assert go_on.wait(10)
        return first_pixel(image)

    call = asyncio.ensure_future(stages.run(png(1), slow, str))
    assert await asyncio.to_thread(decoding.wait, 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    following = asyncio.ensure_future(stages.run(png(2), first_pixel, str))
    go_on.set()
    assert (await following)[0] == "3"
    assert device.batches == [[2]]
