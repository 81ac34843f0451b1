"""One question to a gateway, as any client asks it: the Answer stream, gathered.

Refusals that pass (UNAVAILABLE, RESOURCE_EXHAUSTED) are tried again, after the delay that the reply asks for where it
asks for one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration

from llm_server.evaluation.harness.example import Condition, SeenObject
from polysight.common.v1 import geometry_pb2, model_pb2
from polysight.gateway.v1 import polysight_pb2, polysight_pb2_grpc
from polysight.llm.v1 import generation_pb2
from serving.errors import retry_after_s, status_from_rpc_error

EXPERT_NAMES: Final[dict[polysight_pb2.Expert, str]] = {
    polysight_pb2.EXPERT_PANOPTIC: "panoptic",
    polysight_pb2.EXPERT_DETECTION: "detection",
    polysight_pb2.EXPERT_SCENE_GRAPH: "scene_graph",
    polysight_pb2.EXPERT_OCR: "ocr",
}
_BY_NAME: Final = {name: number for number, name in EXPERT_NAMES.items()}
_PASSING: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclass
class Reply:
    """All that came back for one question; times in milliseconds as the client saw them."""

    reports: list[polysight_pb2.ExpertReport] = field(default_factory=list)
    verbalization: str = ""
    answer: str = ""
    first_token_ms: float = 0.0
    total_ms: float = 0.0
    done: polysight_pb2.AnswerDone = field(default_factory=polysight_pb2.AnswerDone)

    def experts(self) -> dict[str, str]:
        """How each expert's call ended, in lower case: "ok", "failed", "timed_out", "skipped"."""
        names = polysight_pb2.Outcome
        return {
            EXPERT_NAMES[report.expert]: names.Name(report.outcome).removeprefix("OUTCOME_").lower()
            for report in self.reports
        }

    def served(self) -> dict[str, str]:
        """Name, version and engine of everything that took part."""
        parts = {"llm_server": _served(self.done.model)}
        for report in self.reports:
            result = report.WhichOneof("result")
            if result is not None:
                parts[result] = _served(getattr(report, result).model)
        return parts

    def objects(self) -> list[SeenObject]:
        """The things of the panoptic map, the detections, and the objects of the scene graph."""
        found: list[SeenObject] = []
        for report in self.reports:
            kind = report.WhichOneof("result")
            if kind == "panoptic":
                segments = report.panoptic.segments
                found += [_object(s.label, s.box, s.score, "panoptic") for s in segments if s.is_thing]
            elif kind == "detection":
                found += [_object(d.label, d.box, d.score, kind) for d in report.detection.detections]
            elif kind == "scene_graph":
                found += [_object(o.label, o.box, o.score, kind) for o in report.scene_graph.objects]
        return found

    def timings(self) -> dict[str, float]:
        """Where the time went, in milliseconds."""
        gateway, generation = self.done.timings, self.done.timings.generation
        return {
            "total": round(self.total_ms, 1),
            "first_token": round(self.first_token_ms, 1),
            "perceive": milliseconds(gateway.perceive),
            "queue": milliseconds(generation.queue),
            "prefill": milliseconds(generation.prefill),
            "decode": milliseconds(generation.decode),
        }


class GatewayClient:
    """Asks a gateway.

    Args:
        channel: to the gateway; the caller closes it.
        timeout_s: of one try.
        attempts: tries in all, where a refusal passes.
        backoff_s: before the second try, doubled each time, where the reply names no delay.
        sleep: how to wait.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        timeout_s: float = 300.0,
        attempts: int = 5,
        backoff_s: float = 0.5,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._stub: polysight_pb2_grpc.PolysightServiceAsyncStub = polysight_pb2_grpc.PolysightServiceStub(
            channel
        )
        self._timeout_s, self._attempts, self._backoff_s = timeout_s, attempts, backoff_s
        self._sleep = sleep

    async def ask(
        self, image: bytes, question: str, condition: Condition, *, max_new_tokens: int = 0
    ) -> Reply:
        """The reply to one greedy question; `max_new_tokens` 0 leaves the length to the model.

        Raises:
            grpc.aio.AioRpcError: the call failed, the last time it was tried.
            KeyError: the condition names an expert that there is none of.
        """
        request = answer_request(image, question, condition, max_new_tokens)
        return await self.send(request)

    async def send(self, request: polysight_pb2.AnswerRequest) -> Reply:
        """The reply to a request that the caller has put together; raises grpc.aio.AioRpcError."""
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._once(request)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _PASSING or attempt == self._attempts:
                    raise
                told = retry_after_s(status_from_rpc_error(error))
                await self._sleep(told if told is not None else self._backoff_s * 2 ** (attempt - 1))
        raise ValueError("attempts must be at least 1")

    async def _once(self, request: polysight_pb2.AnswerRequest) -> Reply:
        reply = Reply()
        began = time.perf_counter()
        async for event in self._stub.Answer(request, timeout=self._timeout_s):
            kind = event.WhichOneof("event")
            if kind == "expert_report":
                reply.reports.append(event.expert_report)
            elif kind == "verbalization":
                reply.verbalization = event.verbalization.text
            elif kind == "token" and not reply.first_token_ms:
                reply.first_token_ms = (time.perf_counter() - began) * 1e3
            elif kind == "done":
                reply.done = event.done
                reply.answer = event.done.text
        reply.total_ms = (time.perf_counter() - began) * 1e3
        return reply


def answer_request(
    image: bytes, question: str, condition: Condition, max_new_tokens: int
) -> polysight_pb2.AnswerRequest:
    """What is sent: greedy, masks left out; raises KeyError for an unknown expert."""
    request = polysight_pb2.AnswerRequest(model=condition.model)
    request.image.data = image
    request.turns.add(role=generation_pb2.ROLE_USER, text=question)
    request.options.experts.extend(_BY_NAME[name] for name in condition.experts)
    request.options.budget.FromMilliseconds(round(condition.budget_s * 1e3))
    request.options.mask_encoding = geometry_pb2.MASK_ENCODING_NONE
    request.sampling.temperature = 0.0
    if max_new_tokens:
        request.sampling.max_new_tokens = max_new_tokens
    if condition.adapters is not None:
        request.adapters.SetInParent()
        for name in condition.adapters:
            request.adapters.adapters.add(name=name)
    return request


def milliseconds(duration: Duration) -> float:
    """A protobuf Duration in milliseconds, one decimal."""
    return round(duration.seconds * 1e3 + duration.nanos / 1e6, 1)


def _served(model: model_pb2.ModelRef) -> str:
    return " ".join(part for part in (model.name, model.version, model.engine) if part)


def _object(name: str, box: geometry_pb2.Box, score: float, expert: str) -> SeenObject:
    corners = (box.x_min, box.y_min, box.x_max, box.y_max)
    x0, y0, x1, y1 = (round(value, 5) for value in corners)
    return SeenObject(name, (x0, y0, x1, y1), round(score, 4), expert)
