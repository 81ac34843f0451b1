"""Answers held to a form over real gRPC, from a tiny random model."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from llm_server.polysight_smol import ServingOptions, assemble
from llm_server.served_model import WeightsRecord
from llm_server.service import GenerationService
from llm_server.settings import LlmServerSettings
from llm_server.tiny_model import BASE_NAME, tiny_model, tiny_tokenizer
from polysight.llm.v1 import generation_pb2 as pb
from polysight.llm.v1 import generation_pb2_grpc
from serving.channel import open_channel
from serving.errors import error_info, status_from_rpc_error
from serving.grpc_server import Server
from serving.telemetry.metrics import Metrics

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "animal": {"enum": ["cat", "dog", "żubr"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
            "inside": {"type": "boolean"},
        },
        "required": ["animal", "count", "inside"],
        "additionalProperties": False,
    }
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    model = assemble(
        tiny_model(320),
        tiny_tokenizer(),
        WeightsRecord("tiny", "00" * 32, "Apache-2.0"),
        ServingOptions(
            precision="fp32",
            adapters_dir=tmp_path_factory.mktemp("adapters"),
            threads=1,
            max_sequences=4,
            max_queue=8,
            prefill_chunk=16,
            context_length=None,
            answer_reserve=32,
            default_max_new_tokens=200,
        ),
        base=BASE_NAME,
    )
    metrics = Metrics("llm_server")
    settings = LlmServerSettings(port=0, metrics_port=0, drain_grace_s=1)
    service = GenerationService(lambda: model, metrics, limits=settings.image_limits)
    async with Server(settings=settings, servicers=[service.servicer()], metrics=metrics) as server:
        await service.warm_up()
        await server.ready()
        async with open_channel(server.address) as channel:
            yield generation_pb2_grpc.GenerationServiceStub(channel)
        await service.close()


def ask(*, sampling: dict[str, Any] | None = None, **form: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        turns=[pb.Turn(role=pb.ROLE_USER, text="What is in the picture?")],
        constraint=pb.OutputConstraint(**form) if form else None,
        sampling=pb.SamplingParameters(**(sampling or {})),
        seed=5,
    )


async def answer(stub: Any, request: pb.GenerateRequest) -> tuple[str, pb.Done]:
    events = [event async for event in stub.Generate(request, timeout=120)]
    return "".join(event.token.text for event in events[:-1]), events[-1].done


async def test_forms_hold_beside_answers_that_have_none(stub: Any) -> None:
    requests = [
        ask(json_schema=SCHEMA),
        ask(json_schema=SCHEMA, sampling={"temperature": 1.5}),
        ask(regex=" (yes|no)[!?]{2} "),
        ask(sampling={"max_new_tokens": 30}),
    ]
    alone = [await answer(stub, request) for request in requests]
    together = await asyncio.gather(*(answer(stub, request) for request in requests))
    assert [text for text, _ in together] == [text for text, _ in alone]
    for text, done in together[:2]:
        value = json.loads(text)
        assert (done.text, done.finish_reason) == (text, pb.FINISH_REASON_END_OF_TURN)
        assert list(value) == ["animal", "count", "inside"]
        assert value["animal"] in {"cat", "dog", "żubr"}
        assert type(value["count"]) is int
        assert 0 <= value["count"] <= 99
        assert type(value["inside"]) is bool
    # What a form asks for is not trimmed.
    assert re.fullmatch(" (yes|no)[!?]{2} ", together[2][1].text)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ask(json_schema='{"type": "frob"}'), "constraint.json_schema"),
        (ask(regex="(?<=a)b"), "constraint.regex"),
        (ask(regex="ab", sampling={"beams": 2}), "constraint.regex"),
    ],
    ids=["schema", "regex", "beams"],
)
async def test_what_cannot_be_followed_is_refused_by_the_name_of_its_field(
    stub: Any, request_: pb.GenerateRequest, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await answer(stub, request_)
    info = error_info(status_from_rpc_error(refused.value))
    assert info is not None
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (info.reason, info.metadata["field"]) == ("INVALID_FIELD", field)


def options(request: pb.GenerateRequest) -> pb.CheckOptionsRequest:
    """Those of a request."""
    return pb.CheckOptionsRequest(
        model=request.model,
        adapters=request.adapters if request.HasField("adapters") else None,
        sampling=request.sampling,
        logprobs=request.logprobs if request.HasField("logprobs") else None,
        constraint=request.constraint if request.HasField("constraint") else None,
    )


def changed(request: pb.GenerateRequest, **fields: Any) -> pb.GenerateRequest:
    request.MergeFrom(pb.GenerateRequest(**fields))
    return request


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (ask(json_schema='{"type": "frob"}'), "INVALID_FIELD"),
        (ask(json_schema='{"type": '), "INVALID_FIELD"),
        (ask(regex="("), "INVALID_FIELD"),
        (ask(regex="ab", sampling={"beams": 2}), "INVALID_FIELD"),
        (ask(sampling={"beams": 8}), "INVALID_FIELD"),
        (changed(ask(sampling={"beams": 2}), logprobs=1), "INVALID_FIELD"),
        (
            changed(ask(), adapters=pb.AdapterSet(adapters=[pb.AdapterScale(name="nobody")])),
            "ADAPTER_NOT_FOUND",
        ),
        (changed(ask(), model="moai-7b"), "MODEL_NOT_FOUND"),
    ],
    ids=["schema", "json", "regex", "form and beams", "beams", "logprobs", "adapter", "model"],
)
async def test_options_are_refused_beforehand_in_the_words_of_the_answer(
    stub: Any, request_: pb.GenerateRequest, reason: str
) -> None:
    refusals = []
    for call in (stub.CheckOptions(options(request_)), answer(stub, request_)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        info = error_info(status_from_rpc_error(refused.value))
        assert info is not None
        told = {key: value for key, value in info.metadata.items() if "request_id" not in key}
        refusals.append((refused.value.code(), refused.value.details(), info.reason, told))
    assert refusals[0] == refusals[1]
    assert refusals[0][2] == reason


async def test_options_that_can_be_followed_pass(stub: Any) -> None:
    for request in (ask(), ask(json_schema=SCHEMA), ask(regex="yes|no"), ask(sampling={"beams": 4})):
        assert await stub.CheckOptions(options(request)) == pb.CheckOptionsResponse()
