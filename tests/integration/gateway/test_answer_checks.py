"""Options that the language model server refuses end an answer before any expert is asked, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from bench.dummies import DummyLanguageModels
from bench.dummy_mesh import DummyMesh
from polysight.gateway.v1 import polysight_pb2
from polysight.llm.v1 import generation_pb2
from serving.errors import (
    AdapterNotFoundError,
    InvalidFieldError,
    PolysightError,
    QueueFullError,
    error_info,
    status_from_rpc_error,
)

Jpeg = Callable[[int], bytes]
REGEX = generation_pb2.OutputConstraint(regex="yes|no")
ADAPTERS = generation_pb2.AdapterSet(adapters=[generation_pb2.AdapterScale(name="nobody")])


class Checking(DummyLanguageModels):
    """Says what it has against options; it can also keep everybody waiting for that."""

    def __init__(self, refusal: PolysightError | None = None, *, stalls: bool = False) -> None:
        super().__init__()
        self.refusal, self.stalls = refusal, stalls
        self.checked: list[generation_pb2.CheckOptionsRequest] = []

    async def CheckOptions(self, request: Any, context: Any) -> generation_pb2.CheckOptionsResponse:
        self.checked.append(request)
        if self.stalls:
            await asyncio.sleep(30)
        if self.refusal is not None:
            raise self.refusal
        return generation_pb2.CheckOptionsResponse()


class Older(DummyLanguageModels):
    """Of a time when nobody asked."""

    async def CheckOptions(self, request: Any, context: Any) -> generation_pb2.CheckOptionsResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        raise AssertionError("abort raises")


def mesh_with(llm: DummyLanguageModels, **settings: Any) -> DummyMesh:
    mesh = DummyMesh(**settings)
    mesh.llm = llm
    return mesh


def ask(image: bytes, **fields: Any) -> polysight_pb2.AnswerRequest:
    turn = generation_pb2.Turn(role=generation_pb2.ROLE_USER, text="Is it?")
    request = polysight_pb2.AnswerRequest(turns=[turn], **fields)
    request.image.data = image
    return request


async def collect(mesh: DummyMesh, request: Any, **call: Any) -> list[polysight_pb2.AnswerResponse]:
    return [event async for event in mesh.polysight.Answer(request, **call)]


def looks(mesh: DummyMesh) -> int:
    """How often an expert was asked."""
    return sum(expert.calls for expert in mesh.experts.values())


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        (
            {"constraint": REGEX},
            InvalidFieldError(
                "constraint.regex: no", metadata={"field": "constraint.regex", "rule": "compiles"}
            ),
        ),
        ({"adapters": ADAPTERS}, AdapterNotFoundError("no adapter nobody", metadata={"adapter": "nobody"})),
    ],
    ids=["form", "adapter"],
)
async def test_what_the_server_refuses_costs_no_perception(
    jpeg: Jpeg, fields: dict[str, Any], refusal: PolysightError
) -> None:
    llm = Checking(refusal)
    async with mesh_with(llm) as mesh:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await collect(mesh, ask(jpeg(1), **fields))
        assert looks(mesh) == 0
    info = error_info(status_from_rpc_error(caught.value))
    assert info is not None
    assert (caught.value.code(), info.reason) == (refusal.code, refusal.reason_name)
    assert refusal.metadata.items() <= dict(info.metadata).items()
    assert caught.value.details() == refusal.message
    assert llm.requests == []


async def test_what_it_takes_is_answered_and_what_needs_no_asking_is_not_asked(jpeg: Jpeg) -> None:
    llm = Checking()
    async with mesh_with(llm) as mesh:
        events = await collect(mesh, ask(jpeg(1), constraint=REGEX))
        await collect(mesh, ask(jpeg(1), seed=1))
    assert events[-1].HasField("done")
    assert llm.checked == [generation_pb2.CheckOptionsRequest(constraint=REGEX)]
    assert [request.HasField("constraint") for request in llm.requests] == [True, False]


@pytest.mark.parametrize(
    "llm",
    [Older(), Checking(QueueFullError("busy", retry_after_s=1)), Checking(stalls=True)],
    ids=["does not know the question", "is busy", "does not answer"],
)
async def test_a_server_that_does_not_say_is_not_waited_for(jpeg: Jpeg, llm: DummyLanguageModels) -> None:
    async with mesh_with(llm, model_lookup_s=0.5, answer_reserve_s=0.5) as mesh:
        events = await collect(mesh, ask(jpeg(1), constraint=REGEX), timeout=20)
        assert looks(mesh) == 4
    assert events[-1].HasField("done")


async def test_without_a_server_the_verbalization_is_still_owed(jpeg: Jpeg) -> None:
    events: list[polysight_pb2.AnswerResponse] = []
    async with DummyMesh(absent={"llm_server"}) as mesh:

        async def listen() -> None:
            async for event in mesh.polysight.Answer(ask(jpeg(1), constraint=REGEX)):
                events.append(event)

        with pytest.raises(grpc.aio.AioRpcError):
            await listen()
    assert [event.WhichOneof("event") for event in events] == ["expert_report"] * 4 + ["verbalization"]


async def test_a_form_larger_than_the_contract_allows_is_refused_here(jpeg: Jpeg) -> None:
    llm = Checking()
    large = generation_pb2.OutputConstraint(regex="a" * 8193)
    async with mesh_with(llm) as mesh:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await collect(mesh, ask(jpeg(1), constraint=large))
        assert looks(mesh) == 0
    info = error_info(status_from_rpc_error(caught.value))
    assert info is not None
    assert (info.reason, info.metadata["field"]) == ("INVALID_FIELD", "constraint.regex")
    assert llm.checked == []
