"""All experts at once, by many callers who want different things: right answers or typed errors, in steady memory.

The experts are processes of their own with their default models. Pictures of 16 to 4,000 pixels a side, words that
mean something and words that do not, thresholds from end to end, requests that are wrong, callers who leave and
callers in a hurry. Then every request that was answered is sent again, alone: what a reply says must not depend on who
else was asking, and the second time must not cost memory that the first did not.

`POLYSIGHT_SOAK_REQUESTS` sets how many requests (40; 1000 for the whole walk, some minutes).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import string
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf.message import Message
from PIL import Image

from bench.expert_process import ExpertProcess
from bench.text_pages import sign
from gateway.experts import KINDS, ExpertKind
from polysight.common.v1 import geometry_pb2, image_pb2
from polysight.vision.v1 import detection_pb2, ocr_pb2, panoptic_pb2, scene_graph_pb2
from serving.channel import open_channel
from serving.coco import COCO_80
from serving.errors import error_info, status_from_rpc_error

pytestmark = [pytest.mark.weights, pytest.mark.slow]

REQUESTS = int(os.environ.get("POLYSIGHT_SOAK_REQUESTS", "40"))
IN_FLIGHT = 8
PATIENCE_S = 120.0
GROWTH_MB = 64
"""What a process may grow by while it answers once more what it has answered: the spread of its heap."""

_PHOTOS = sorted((Path(__file__).parent.parent / "assets" / "photos").glob("*.jpg"))
_ENCODINGS = (
    geometry_pb2.MASK_ENCODING_UNSPECIFIED,
    geometry_pb2.MASK_ENCODING_COCO_RLE,
    geometry_pb2.MASK_ENCODING_PNG,
    geometry_pb2.MASK_ENCODING_NONE,
)
_DEFAULTS = 0.3  # how often a field is left unset


@dataclass(frozen=True)
class Asked:
    """One request: whether it is one that an expert can answer, and when its caller gives up or leaves (seconds)."""

    expert: str
    request: Message
    valid: bool
    timeout_s: float = PATIENCE_S
    leaves_after_s: float | None = None


M = TypeVar("M", bound=Message)
Outcome = Message | grpc.RpcError | None
"""The reply, the error, or None for a caller who has left."""


class Walk:
    """Random requests, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def next(self) -> Asked:
        """One more."""
        chance = self._random.random
        expert = self._random.choices([kind.name for kind in KINDS], [4, 4, 4, 1])[0]
        request = getattr(self, f"_{expert}")()
        asked = Asked(expert, request, True)
        kind = chance()
        if kind < 0.06:
            request.image.data = request.image.data[: len(request.image.data) // 3]
            asked = Asked(expert, request, False)
        elif kind < 0.10:
            request.image.data = b"not a picture"
            asked = Asked(expert, request, False)
        elif kind < 0.20:
            asked = Asked(expert, request, True, leaves_after_s=chance() * 0.2)
        elif kind < 0.26:
            asked = Asked(expert, request, True, timeout_s=0.001 + chance() * 0.1)
        return asked

    def _picture(self) -> image_pb2.Image:
        large = self._random.random() < 0.1
        width, height = (
            round(16 * ((4000 if large else 900) / 16) ** self._random.random()) for _ in range(2)
        )
        kind = self._random.random()
        if kind < 0.75:
            photo = Image.open(self._random.choice(_PHOTOS)).convert("RGB")
        elif kind < 0.9:
            photo = sign("".join(self._random.choices(string.ascii_uppercase, k=6)), size=40).convert("RGB")
        else:
            noise = np.random.default_rng(self._random.randrange(1000)).integers(
                0, 256, (64, 64, 3), np.uint8
            )
            photo = Image.fromarray(noise)
        file = io.BytesIO()
        photo.resize((width, height)).save(file, self._random.choice(["JPEG", "PNG"]), compress_level=1)
        return image_pb2.Image(data=file.getvalue())

    def _set(self, request: M, **choices: Callable[[], Any]) -> M:
        for name, choose in choices.items():
            if self._random.random() > _DEFAULTS:
                setattr(request, name, choose())
        return request

    def _share(self) -> float:
        return self._random.choice([0.0, 1.0, round(self._random.uniform(0.05, 0.95), 3)])

    def _detection(self) -> Message:
        words = [*COCO_80, "people", "zebras", "glasses", "blorf", "ein Hund", "x" * 200, "犬"]
        request = detection_pb2.DetectRequest(image=self._picture())
        if self._random.random() > 0.5:
            request.vocabulary.extend(self._random.choices(words, k=self._random.randint(1, 30)))
        return self._set(
            request, score_threshold=self._share, max_detections=lambda: self._random.randint(1, 300)
        )

    def _panoptic(self) -> Message:
        request = panoptic_pb2.SegmentRequest(
            image=self._picture(), mask_encoding=self._random.choice(_ENCODINGS)
        )
        for _ in range(self._random.randint(0, 2)):
            request.grids.add(height=self._random.randint(1, 64), width=self._random.randint(1, 64))
        return self._set(
            request,
            score_threshold=lambda: max(self._share(), 0.05),
            mask_threshold=self._share,
            overlap_threshold=self._share,
            max_segments=lambda: self._random.randint(1, 60),
            include_instances=lambda: self._random.random() < 0.5,
        )

    def _scene_graph(self) -> Message:
        return self._set(
            scene_graph_pb2.GenerateSceneGraphRequest(image=self._picture()),
            object_threshold=lambda: max(self._share(), 0.05),
            relation_threshold=self._share,
            max_relations=lambda: self._random.randint(1, 100),
        )

    def _ocr(self) -> Message:
        return self._set(
            ocr_pb2.RecognizeTextRequest(image=self._picture()),
            confidence_threshold=self._share,
            detection_threshold=lambda: max(self._share(), 0.1),
            use_angle_classifier=lambda: self._random.random() < 0.5,
        )


class Mesh:
    """All experts, each in a process, and channels to them."""

    def __init__(self, processes: dict[str, ExpertProcess], channels: dict[str, grpc.aio.Channel]) -> None:
        self._processes = processes
        self._calls: dict[str, Any] = {
            kind.name: channels[kind.name].unary_unary(
                kind.method,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=kind.parse,
            )
            for kind in KINDS
        }

    async def ask(self, asked: Asked) -> Outcome:
        """As its caller would."""
        call = asyncio.ensure_future(self._reply(asked.expert, asked.request, asked.timeout_s))
        if asked.leaves_after_s is not None:
            await asyncio.wait([call], timeout=asked.leaves_after_s)
            if call.cancel():
                await asyncio.wait([call])
                return None
        try:
            return await call
        except grpc.RpcError as error:
            return error

    async def _reply(self, expert: str, request: Message, timeout_s: float) -> Message:
        reply: Message = await self._calls[expert](request, timeout=timeout_s)
        return reply

    def memory_mb(self) -> dict[str, float]:
        """Resident memory of each."""
        return {
            name: psutil.Process(process.pid).memory_info().rss / 2**20
            for name, process in self._processes.items()
        }


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with contextlib.AsyncExitStack() as stack:

        def start(kind: ExpertKind) -> ExpertProcess:
            return ExpertProcess(kind.name, kind.method.removeprefix("/").partition("/")[0]).__enter__()

        started = await asyncio.gather(*(asyncio.to_thread(start, kind) for kind in KINDS))
        for process in started:
            stack.push(process.__exit__)
        processes = {kind.name: process for kind, process in zip(KINDS, started, strict=True)}
        channels = {
            name: await stack.enter_async_context(open_channel(process.address))
            for name, process in processes.items()
        }
        yield Mesh(processes, channels)


def content(reply: Message) -> Message:
    """A reply without what differs between two runs of the same request: how long it took."""
    stripped = type(reply)()
    stripped.CopyFrom(reply)
    stripped.ClearField("timings")
    return stripped


async def test_a_thousand_callers_are_answered_as_if_each_were_alone(mesh: Mesh) -> None:
    walk = Walk(seed=11)
    everyone = [walk.next() for _ in range(REQUESTS)]
    turn = asyncio.Semaphore(IN_FLIGHT)

    async def one(asked: Asked) -> Outcome:
        async with turn:
            return await mesh.ask(asked)

    outcomes = await asyncio.gather(*(one(asked) for asked in everyone))
    after = mesh.memory_mb()

    answered: list[tuple[Asked, Message]] = []
    for number, (asked, outcome) in enumerate(zip(everyone, outcomes, strict=True)):
        where = f"request {number} to {asked.expert}"
        if isinstance(outcome, grpc.RpcError):
            code, info = outcome.code(), error_info(status_from_rpc_error(outcome))
            if code == grpc.StatusCode.DEADLINE_EXCEEDED and asked.timeout_s < PATIENCE_S:
                continue  # told by the expert, or by the clock on this side
            assert info is not None, f"{where}: {code} {outcome.details()}"
            assert not asked.valid, f"{where}: {info.reason} {outcome.details()}"
            assert code == grpc.StatusCode.INVALID_ARGUMENT, where
        elif outcome is not None:
            assert asked.valid, where
            answered.append((asked, outcome))
    assert len(answered) >= REQUESTS // 2

    for asked, reply in answered:
        alone = await mesh.ask(Asked(asked.expert, asked.request, True))
        assert isinstance(alone, Message), asked.expert
        assert content(alone) == content(reply), f"{asked.expert} answers otherwise when nobody else asks"
    grown = {name: size - after[name] for name, size in mesh.memory_mb().items()}
    assert all(size < GROWTH_MB for size in grown.values()), grown
