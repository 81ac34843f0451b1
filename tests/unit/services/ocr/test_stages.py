"""The networks on threads of their own: lines of different pictures share runs, callers keep their own answers."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.ocr.model import Limits, OcrModel, OcrParams, Result
from services.ocr.stages import OcrStages
from serving.engine import FakeEngine, TensorSpec
from serving.errors import DeadlineUnreachableError, ImageCorruptError, QueueFullError, ShuttingDownError
from serving.telemetry.metrics import Metrics

Arrays = Mapping[str, np.ndarray[Any, Any]]
CHARSET = ("", *"ABCDEFGHIJ", " ")


def spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, shape, "float32")


class Networks:
    """Text is where red is lit, the letter is how green its middle is; recognition waits while its gate is shut."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.fails = False
        self.detector = FakeEngine(
            [spec("x", "n", 3, "h", "w")],
            [spec("map", "n", 1, "h", "w")],
            lambda inputs: {"map": (inputs["x"][:, 2:3] > 0).astype(np.float32) * np.float32(0.9)},
        )
        self.recognizer = FakeEngine(
            [spec("x", "n", 3, 48, "w")], [spec("y", "n", "t", len(CHARSET))], self._recognise, max_batch=4
        )
        self.model = OcrModel(
            self.detector, self.recognizer, None, CHARSET, limits=Limits(min_side=32, max_side=640)
        )

    def _recognise(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        assert self.gate.wait(10)
        if self.fails:
            raise RuntimeError("the network is broken")
        x = (inputs["x"] + 1) / 2
        y = np.zeros((len(x), 3, len(CHARSET)), dtype=np.float32)
        y[:, [0, 2], 0] = 1.0
        for row, (_, green, red) in zip(y, x, strict=True):
            lit = np.flatnonzero(red[24] > 0.6)
            row[1, 1 + round(float(green[24, lit[len(lit) // 2]]) * 9)] = 1.0
        return {"y": y}


@pytest.fixture
def networks() -> Networks:
    return Networks()


@pytest.fixture
async def stages(networks: Networks) -> AsyncIterator[OcrStages]:
    made = OcrStages(networks.model, metrics=Metrics("ocr"), max_batch=1, max_lines=4, max_queue=3)
    yield made
    networks.gate.set()
    await made.close()


def picture(*letters: str, wide: int = 120) -> bytes:
    """A line of `wide` pixels for each letter, below one another."""
    pixels = np.zeros((60 + 60 * len(letters), 640, 3), np.uint8)
    for row, letter in enumerate(letters):
        pixels[20 + 60 * row : 44 + 60 * row, 20 : 20 + wide, 0] = 255
        pixels[20 + 60 * row : 44 + 60 * row, 20 : 20 + wide, 1] = round((ord(letter) - ord("A")) / 9 * 255)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def said(result: Result) -> list[str]:
    return [line.text for line in result.lines]


async def until_waiting(networks: Networks, runs: int) -> None:
    async with asyncio.timeout(5):
        while len(networks.recognizer.batches) < runs:  # noqa: ASYNC110 - set by the device thread
            await asyncio.sleep(0.002)


async def until_found(networks: Networks, pictures: int) -> None:
    """Until the detector has seen so many pictures, and their lines wait for recognition."""
    async with asyncio.timeout(5):
        while len(networks.detector.batches) < pictures:  # noqa: ASYNC110 - set by the device thread
            await asyncio.sleep(0.002)
    await asyncio.sleep(0.2)


async def test_everyone_reads_their_own_lines(stages: OcrStages) -> None:
    wanted = [["A", "B", "C"], [], ["J"], ["D", "E"]]

    results = await asyncio.gather(*(stages.run(picture(*letters), OcrParams()) for letters in wanted))

    assert [said(result) for result, _ in results] == wanted
    for _, timings in results:
        assert timings.inference_s > 0 <= timings.queue_s
        assert timings.postprocess_s > 0


async def test_lines_of_several_pictures_share_a_run_and_only_equal_widths(
    networks: Networks, stages: OcrStages
) -> None:
    networks.gate.clear()
    first = asyncio.create_task(stages.run(picture("A"), OcrParams()))
    await until_waiting(networks, 1)
    rest = [
        asyncio.create_task(stages.run(picture(letter, wide=wide), OcrParams()))
        for letter, wide in (("B", 120), ("C", 560), ("D", 120))
    ]
    await until_found(networks, 4)
    networks.gate.set()

    results = await asyncio.gather(first, *rest)

    assert [said(result) for result, _ in results] == [["A"], ["B"], ["C"], ["D"]]
    assert sorted(networks.recognizer.batches) == [1, 1, 2]


async def test_a_picture_that_was_alone_gives_way_when_another_comes(
    networks: Networks, stages: OcrStages
) -> None:
    networks.gate.clear()
    first = asyncio.create_task(stages.run(picture("A", "B", "C", "D", "E", "F"), OcrParams()))
    await until_waiting(networks, 1)
    second = asyncio.create_task(stages.run(picture("J"), OcrParams()))
    await until_found(networks, 2)
    networks.gate.set()

    results = await asyncio.gather(first, second)

    assert [said(result) for result, _ in results] == [["A", "B", "C", "D", "E", "F"], ["J"]]
    # What the first had left over stood in line with the other's, which had come before it.
    assert networks.recognizer.batches[0] == 4
    assert sum(networks.recognizer.batches) == 7


async def test_who_leaves_is_read_no_further(networks: Networks, stages: OcrStages) -> None:
    networks.gate.clear()
    call = asyncio.create_task(stages.run(picture("A", "B", "C", "D", "E", "F"), OcrParams()))
    await until_waiting(networks, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    networks.gate.set()
    assert said((await stages.run(picture("G"), OcrParams()))[0]) == ["G"]
    assert networks.recognizer.batches == [4, 1]


async def test_a_network_that_fails_fails_the_request_and_leaves_nothing_behind(
    networks: Networks, stages: OcrStages
) -> None:
    networks.fails = True
    with pytest.raises(Exception, match="broken"):
        await stages.run(picture("A", "B", "C", "D", "E", "F"), OcrParams())
    networks.fails = False
    assert said((await stages.run(picture("G"), OcrParams()))[0]) == ["G"]


async def test_more_pictures_than_may_wait_are_refused_at_once(networks: Networks, stages: OcrStages) -> None:
    networks.gate.clear()
    accepted = [asyncio.create_task(stages.run(picture("A"), OcrParams())) for _ in range(4)]
    await until_waiting(networks, 1)
    with pytest.raises(QueueFullError) as caught:
        await stages.run(picture("B"), OcrParams())
    assert (caught.value.retry_after_s or 0) > 0
    accepted[3].cancel()
    await asyncio.wait([accepted[3]])
    accepted[3] = asyncio.create_task(stages.run(picture("C"), OcrParams()))
    await asyncio.sleep(0)
    networks.gate.set()
    assert [said(result) for result, _ in await asyncio.gather(*accepted)] == [["A"], ["A"], ["A"], ["C"]]


async def test_a_deadline_that_passes_while_lines_wait_is_told(networks: Networks, stages: OcrStages) -> None:
    networks.gate.clear()
    first = asyncio.create_task(stages.run(picture("A"), OcrParams()))
    await until_waiting(networks, 1)
    with pytest.raises(DeadlineUnreachableError):
        await stages.run(picture("B"), OcrParams(), timeout_s=0.2)
    networks.gate.set()
    await first
    with pytest.raises(DeadlineUnreachableError):
        await stages.run(picture("B"), OcrParams(), timeout_s=0.0)


async def test_what_is_no_picture_is_refused(stages: OcrStages) -> None:
    with pytest.raises(ImageCorruptError):
        await stages.run(picture("A")[:80], OcrParams())


async def test_after_closing_nothing_is_taken(networks: Networks) -> None:
    stages = OcrStages(networks.model, metrics=Metrics("ocr"), max_batch=1, max_lines=4, max_queue=3)
    await stages.close()
    with pytest.raises(ShuttingDownError):
        await stages.run(picture("A"), OcrParams())
