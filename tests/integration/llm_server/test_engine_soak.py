"""The engine with all its models under callers who come, leave and run out of time: each answer is the one it is alone.

Three servers in this process, over real gRPC with tiny random weights: the embedded default with two adapters and a
crayon prompt, CoLLaVO and MoAI. 64 requests at random moments, with random adapters, pictures, maps, gates, sampling,
beams, stop strings, forms and priorities; some are wrong, some callers leave in the middle, some are in a hurry. Blocks
are so few that answers make room for one another. Then each request is asked alone of servers that remember nothing:
what was answered is that answer, what was cut short begins like it. At the end nobody runs or waits, no block is held,
and the metrics say what the callers saw.

`POLYSIGHT_SOAK_MINUTES` has it go on so long, with other requests each time (10 for the whole walk): resident memory
must then be flat over the second half, and everything that can happen must have happened. Figures are printed as JSON.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import gc
import io
import json
import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import psutil
import pytest
import torch
from PIL import Image as PillowImage

from llm_server.models.crayon_files import save_crayon
from llm_server.models.crayon_hooks import branch_outputs
from llm_server.models.crayon_prompt import CrayonPrompt, CrayonShape
from llm_server.polysight_smol import ServingOptions, assemble
from llm_server.published_models import Checkpoint, assemble_published
from llm_server.served_model import ServedModel, WeightsRecord
from llm_server.service import GenerationService
from llm_server.settings import LlmServerSettings
from llm_server.tiny_model import BASE_NAME, save_tiny_adapter, tiny_model, tiny_tokenizer
from polysight.common.v1 import image_pb2, model_pb2
from polysight.llm.v1 import generation_pb2 as pb
from polysight.llm.v1 import generation_pb2_grpc
from serving.channel import open_channel
from serving.errors import error_info, status_from_rpc_error
from serving.grpc_server import Server
from serving.image import ImageLimits
from serving.telemetry.metrics import Metrics

MINUTES: Final = float(os.environ.get("POLYSIGHT_SOAK_MINUTES", "0"))
REQUESTS: Final = 64
LONGEST: Final = 40 if MINUTES else 24
"""Tokens of an answer."""
LEAST_ROUNDS: Final = 8
"""Of a walk of minutes, however slow the machine: fewer say nothing of memory."""
PATIENCE_S: Final = 600.0
GROWTH_MB: Final = 24
"""What the second half may need beyond the first: the spread of a heap; a picture a request would be ten times that."""

MODELS: Final = ("embedded", "collavo", "moai")
VOCABULARY: Final = 320
GRID: Final = {"embedded": (4, 5), "collavo": (5, 5)}
SIDE: Final = 70
MIXER: Final = 7
SEEN: Final = (
    "The image includes (#1 person) [0.00, 0.16, 0.29, 0.88].",
    "The image includes (#1 dog) [0.10, 0.20, 0.30, 0.40], (#2 dog) [0.5, 0.5, 0.9, 0.9].",
    "",
)
ASKED: Final = (
    "How many people are in the picture?",
    "What is it?",
    "Where?",
    "Ist da ein Hund?",
    "犬はいますか。",
)
FORMS: Final = (" (yes|no)[!?]{2} ", "[a-f0-9]{4,12}", "(ab|ba)*c?")


@dataclass(frozen=True)
class Asked:
    """A request to a model, when it comes, and how long its caller stays: seconds, and tokens if not to the end."""

    model: str
    request: pb.GenerateRequest
    at_s: float
    timeout_s: float = PATIENCE_S
    leaves_after: int | None = None
    reason: str = ""
    """Of the refusal, if the request is wrong."""


@dataclass
class Outcome:
    """What a caller got: tokens, then the end, or the error, or neither for one who left."""

    tokens: list[pb.Token] = field(default_factory=list)
    done: pb.Done | None = None
    error: grpc.RpcError | None = None

    @property
    def pieces(self) -> list[tuple[int, str]]:
        return [(token.id, token.text) for token in self.tokens]


class Walk:
    """Random requests, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._at_s = 0.0

    def next(self) -> Asked:
        """One more: three of four callers stay, one of sixteen asks for what is not there."""
        draw = self._random
        self._at_s += draw.expovariate(1 / 0.02)
        model = draw.choices(MODELS, [4, 3, 3])[0]
        request = self._request(model)
        kind = draw.random()
        if kind < 0.06:
            reason = self._spoil(request, model)
            return Asked(model, request, self._at_s, reason=reason)
        if kind < 0.18:
            return Asked(model, request, self._at_s, leaves_after=draw.randint(0, 12))
        if kind < 0.30:
            return Asked(model, request, self._at_s, timeout_s=draw.uniform(0.005, 0.4))
        return Asked(model, request, self._at_s)

    def _spoil(self, request: pb.GenerateRequest, model: str) -> str:
        kind = self._random.randrange(3)
        if kind == 0:
            request.adapters.adapters.add(name="medical")
            return "ADAPTER_NOT_FOUND"
        if kind == 1:
            request.sampling.temperature = float("nan")
            return "INVALID_FIELD"
        if model == "embedded":
            request.turns[-1].text = "x" * 3000
            return "PROMPT_TOO_LONG"
        request.image.data = b"no picture"
        return "IMAGE_UNSUPPORTED_FORMAT"

    def _request(self, model: str) -> pb.GenerateRequest:
        draw = self._random
        request = pb.GenerateRequest(seed=draw.getrandbits(64), priority=draw.choice([-1, 0, 0, 0, 1]))
        if draw.random() < 0.2:
            request.turns.add(role=pb.ROLE_USER, text=draw.choice(ASKED))
            request.turns.add(role=pb.ROLE_ASSISTANT, text="Two of them.")
        words = [draw.choice(ASKED), *draw.choices(["so", "now", "there"], k=draw.randint(0, 5))]
        request.turns.add(role=pb.ROLE_USER, text=" ".join(words))
        self._sampling(request)
        if draw.random() < 0.25:
            request.stop.extend(draw.choices(["e", "a", "00", "\n", "。", "th"], k=draw.randint(1, 2)))
        getattr(self, f"_{model}")(request)
        return request

    def _sampling(self, request: pb.GenerateRequest) -> None:
        draw, sampling = self._random, request.sampling
        sampling.max_new_tokens = draw.randint(1, LONGEST)
        kind = draw.random()
        if kind < 0.15:
            sampling.beams = draw.randint(2, 3)
            return
        if kind > 0.55:
            sampling.temperature = draw.uniform(0.3, 2.0)
            if draw.random() < 0.5:
                sampling.top_p = draw.uniform(0.3, 1.0)
            if draw.random() < 0.3:
                sampling.top_k = draw.randint(1, 50)
            if draw.random() < 0.3:
                sampling.min_p = draw.uniform(0.0, 0.2)
            if draw.random() < 0.3:
                sampling.repetition_penalty = draw.uniform(1.0, 1.5)
        if draw.random() < 0.2:
            request.logprobs = draw.randint(0, 3)
        if draw.random() < 0.08:
            request.constraint.regex = draw.choice(FORMS)

    def _embedded(self, request: pb.GenerateRequest) -> None:
        draw = self._random
        request.verbalized_text = draw.choice(SEEN)
        if draw.random() < 0.7:
            request.adapters.SetInParent()
            for name in draw.sample(["object", "vl"], draw.randint(0, 2)):
                request.adapters.adapters.add(name=name, scale=draw.choice([1.0, 0.5, -1.0, 2.0]))
        if draw.random() < 0.4:
            self._crayon(request, "embedded")

    def _collavo(self, request: pb.GenerateRequest) -> None:
        draw = self._random
        request.verbalized_text = draw.choice(SEEN)
        self._picture(request)
        if draw.random() < 0.8:
            self._crayon(request, "collavo")
        request.crayon_ablation.without_semantic = draw.random() < 0.1
        request.crayon_ablation.without_numbering = draw.random() < 0.1

    def _moai(self, request: pb.GenerateRequest) -> None:
        draw = self._random
        self._picture(request)
        if draw.random() < 0.5:
            request.auxiliary_sentences.CopyFrom(
                pb.AuxiliarySentences(regions=draw.choice(SEEN), detections=draw.choice(SEEN), text="EXIT")
            )
        else:
            request.verbalized_text = draw.choice(SEEN)
        if draw.random() < 0.5:
            ids = np.full((SIDE, SIDE), draw.randint(0, 133), "<u2")
            ids[: draw.randint(0, SIDE)] = draw.randint(0, 133)
            request.segments.CopyFrom(pb.SegmentGrid(height=SIDE, width=SIDE, segment_ids=ids.tobytes()))
        request.gates.report = draw.random() < 0.5
        if draw.random() < 0.3:
            request.gates.overrides.add(layer=MIXER, side=pb.GATE_SIDE_IMAGE, only=draw.randint(1, 3))

    def _picture(self, request: pb.GenerateRequest) -> None:
        """One of a few, so that some are asked about twice."""
        draw = self._random
        shade = np.random.default_rng(draw.randrange(8)).integers(0, 256, (20, 30, 3), np.uint8)
        buffer = io.BytesIO()
        PillowImage.fromarray(shade).save(buffer, "PNG")
        request.image.CopyFrom(image_pb2.Image(data=buffer.getvalue()))
        request.profile = draw.choice([model_pb2.PROFILE_SERVING, model_pb2.PROFILE_REFERENCE])
        request.prompt_template = draw.choice([pb.PROMPT_TEMPLATE_EVALUATION, pb.PROMPT_TEMPLATE_DEMO])

    def _crayon(self, request: pb.GenerateRequest, model: str) -> None:
        rows, columns = GRID[model]
        cells = np.random.default_rng(self._random.randrange(4))
        request.crayon.CopyFrom(
            pb.CrayonMaps(
                height=rows,
                width=columns,
                class_indices=cells.integers(0, 134, rows * columns, np.uint8).tobytes(),
                instance_ordinals=cells.integers(0, 21, rows * columns, np.uint8).tobytes(),
            )
        )


@dataclass
class Rig:
    """A server of one model in this process, and a client of it."""

    stub: Any
    model: ServedModel
    metrics: Metrics

    async def ask(self, asked: Asked) -> Outcome:
        """As its caller would."""
        outcome = Outcome()
        call = self.stub.Generate(asked.request, timeout=asked.timeout_s)
        try:
            while asked.leaves_after is None or len(outcome.tokens) < asked.leaves_after:
                event = await call.read()
                if event is grpc.aio.EOF:
                    return outcome
                if event.HasField("done"):
                    outcome.done = event.done
                else:
                    outcome.tokens.append(event.token)
        except grpc.RpcError as error:
            outcome.error = error
            return outcome
        call.cancel()
        return outcome

    async def idle(self) -> None:
        async with asyncio.timeout(300):
            while self.model.engine.load != (0, 0):  # noqa: ASYNC110 - the engine has no event for tests
                await asyncio.sleep(0.005)

    def counted(self) -> dict[str, float]:
        """What the metrics say of answers and tokens."""
        answers = [
            self.metrics.value("llm_server_answers_total", {"reason": reason}) or 0.0
            for reason in ("end_of_turn", "stop_string", "length")
        ]
        tokens = self.metrics.value("llm_server_generated_tokens_total")
        return {"answers": sum(answers), "tokens": tokens or 0.0}


@contextlib.asynccontextmanager
async def serve(model: ServedModel) -> AsyncIterator[Rig]:
    metrics = Metrics("llm_server")
    settings = LlmServerSettings(port=0, metrics_port=0, drain_grace_s=1)
    service = GenerationService(lambda: model, metrics, limits=settings.image_limits)
    async with Server(settings=settings, servicers=[service.servicer()], metrics=metrics) as server:
        await service.warm_up()
        await server.ready()
        async with open_channel(server.address) as channel:
            yield Rig(generation_pb2_grpc.GenerationServiceStub(channel), model, metrics)
        await service.close()


def adapters(root: Path) -> Path:
    """Two, and a crayon prompt beside them."""
    save_tiny_adapter(root / "object", VOCABULARY, seed=1, rank=4)
    save_tiny_adapter(root / "vl", VOCABULARY, seed=2, rank=2)
    shape = CrayonShape(
        rows=GRID["embedded"][0], columns=GRID["embedded"][1], width=8, hidden=32, rank=3, alpha=6.0
    )
    torch.manual_seed(3)
    crayon = CrayonPrompt(shape, branch_outputs(tiny_model(VOCABULARY), shape.targets))
    for name in crayon.outputs:
        torch.nn.init.normal_(crayon.branch(name).B, std=0.3)
    save_crayon(crayon, root / "crayon", base=BASE_NAME)
    return root


def models(root: Path, golden: Path, *, kv_tokens: int, reuse: bool) -> dict[str, ServedModel]:
    """One of each kind."""
    options = ServingOptions("fp32", root, 1, 6, REQUESTS, 16, None, 48, 12, kv_tokens, reuse)
    weights = WeightsRecord("tiny", "00" * 32, "Apache-2.0")
    served = {
        "embedded": assemble(tiny_model(VOCABULARY), tiny_tokenizer(), weights, options, base=BASE_NAME)
    }
    for kind in ("collavo", "moai"):
        served[kind] = assemble_published(
            Checkpoint(golden / "checkpoints" / f"{kind}-tiny"),
            options,
            ImageLimits(max_side=512),
            kept_mebibytes=1,
            device="cpu",
        )
    return served


async def start(stack: contextlib.AsyncExitStack, served: dict[str, ServedModel]) -> dict[str, Rig]:
    return {name: await stack.enter_async_context(serve(model)) for name, model in served.items()}


@dataclass
class Soak:
    """Rounds of a walk, and what was seen on it."""

    hot: dict[str, Rig]
    cold: dict[str, Rig]
    seen: collections.Counter[str] = field(default_factory=collections.Counter)

    async def round(self, seed: int) -> None:
        """All at once, then each alone."""
        walk = Walk(seed)
        everyone = [walk.next() for _ in range(REQUESTS)]
        before = {name: rig.counted() for name, rig in self.hot.items()}
        outcomes = await asyncio.gather(*(self._come(asked) for asked in everyone))
        for rig in self.hot.values():
            await rig.idle()
        for number, (asked, outcome) in enumerate(zip(everyone, outcomes, strict=True)):
            where = f"round {seed}, request {number}, to {asked.model}: {asked.request}"
            if asked.reason:
                assert outcome.error is not None, where
                info = error_info(status_from_rpc_error(outcome.error))
                assert info is not None, f"{where}: {outcome.error}"
                assert info.reason == asked.reason, where
                self.seen["refused"] += 1
            else:
                await self._compare(asked, outcome, where)
        for name, rig in self.hot.items():
            self._nothing_is_left(rig)
            told = [o for a, o in zip(everyone, outcomes, strict=True) if a.model == name]
            self._the_metrics_agree(before[name], rig.counted(), told)

    async def _come(self, asked: Asked) -> Outcome:
        await asyncio.sleep(asked.at_s)
        return await self.hot[asked.model].ask(asked)

    async def _compare(self, asked: Asked, outcome: Outcome, where: str) -> None:
        alone = await self.cold[asked.model].ask(Asked(asked.model, asked.request, 0.0))
        assert alone.done is not None, f"{where}: {alone.error}"
        done = outcome.done
        if done is None:
            self.seen["late" if outcome.error is not None else "left"] += 1
            if outcome.error is not None:
                assert outcome.error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, f"{where}: {outcome.error}"
                assert asked.timeout_s < PATIENCE_S, where
            else:
                assert asked.leaves_after is not None, where
            assert outcome.pieces == alone.pieces[: len(outcome.tokens)], where
            return
        self.seen["answered"] += 1
        self.seen["tokens"] += len(outcome.tokens)
        self.seen["cached"] += done.usage.cached_tokens > 0
        assert outcome.pieces == alone.pieces, where
        assert (done.text, done.finish_reason) == (alone.done.text, alone.done.finish_reason), where
        assert (done.seed, done.adapters) == (alone.done.seed, alone.done.adapters), where
        counts = [
            (
                one.usage.text_tokens,
                one.usage.image_tokens,
                one.usage.auxiliary_tokens,
                one.usage.generated_tokens,
            )
            for one in (done, alone.done)
        ]
        assert counts[0] == counts[1], where
        for token, solo in zip(outcome.tokens, alone.tokens, strict=True):
            assert token.logprob == pytest.approx(solo.logprob, abs=1e-3), where
        for ours, theirs in zip(done.gates, alone.done.gates, strict=True):
            for expert in ("auxiliary", "cross", "self"):
                assert getattr(ours.mean, expert) == pytest.approx(getattr(theirs.mean, expert), abs=1e-4)

    def _nothing_is_left(self, rig: Rig) -> None:
        usage = rig.model.engine.usage
        assert (usage.running, usage.waiting, usage.blocks_in_use) == (0, 0, 0)
        assert usage.blocks_remembered <= usage.blocks
        for name in ("sequences_running", "sequences_waiting", "kv_blocks_in_use"):
            assert rig.metrics.value(f"llm_server_{name}") == 0, name

    def _the_metrics_agree(
        self, before: dict[str, float], after: dict[str, float], told: list[Outcome]
    ) -> None:
        ended = [one.done for one in told if one.done is not None]
        answers, tokens = (after[name] - before[name] for name in ("answers", "tokens"))
        # Who left or was late may have missed an end that the server had written.
        missed = sum(one.done is None for one in told)
        assert len(ended) <= answers <= len(ended) + missed
        said = sum(done.usage.generated_tokens for done in ended)
        assert tokens == said if answers == len(ended) else tokens > said


@pytest.fixture
async def soak(tmp_path: Path, golden_dir: Path) -> AsyncIterator[Soak]:
    root = adapters(tmp_path / "adapters")
    async with contextlib.AsyncExitStack() as stack:
        # As few blocks as leave room for the largest request.
        hot = await start(stack, models(root, golden_dir, kv_tokens=1024, reuse=True))
        cold = await start(stack, models(root, golden_dir, kv_tokens=2048, reuse=False))
        yield Soak(hot, cold)


def resident_mb() -> float:
    """What this process holds once its heap has given back what it can."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process().memory_info().rss / 2**20


async def test_every_answer_is_the_one_it_is_alone_and_nothing_is_left(
    soak: Soak, capsys: pytest.CaptureFixture[str]
) -> None:
    began, memory = time.monotonic(), []
    number = 0
    least = LEAST_ROUNDS if MINUTES else 1
    while number < least or time.monotonic() - began < 60 * MINUTES:
        await soak.round(number)
        memory.append(resident_mb())
        number += 1
    preemptions = sum(rig.model.engine.usage.preemptions for rig in soak.hot.values())
    seen = {**soak.seen, "preemptions": preemptions}
    assert soak.seen["answered"] >= number * REQUESTS // 2
    if not MINUTES:
        return
    half = len(memory) // 2
    figures = {
        "rounds": number,
        "seconds": round(time.monotonic() - began, 1),
        **seen,
        "resident_mb": {"first": memory[0], "middle": max(memory[: half + 1]), "last": max(memory[half:])},
    }
    with capsys.disabled():
        print(json.dumps(figures))
    assert max(memory[half:]) - max(memory[: half + 1]) < GROWTH_MB, memory
    assert all(seen[kind] for kind in ("answered", "late", "left", "refused", "cached", "preemptions")), seen
