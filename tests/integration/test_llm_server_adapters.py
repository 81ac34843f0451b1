"""Adapters come, go and are replaced over real gRPC while answers are being written."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from cli.main import app
from llm_server.adapter_service import AdapterService
from llm_server.polysight_smol import ServingOptions, assemble
from llm_server.served_model import ServedModel, WeightsRecord
from llm_server.service import GenerationService
from llm_server.settings import LlmServerSettings
from llm_server.tiny_model import BASE_NAME, save_tiny_adapter, tiny_model, tiny_tokenizer
from polysight.llm.v1 import adapter_admin_pb2 as admin
from polysight.llm.v1 import adapter_admin_pb2_grpc, generation_pb2_grpc
from polysight.llm.v1 import generation_pb2 as pb
from serving.channel import open_channel
from serving.errors import error_info, status_from_rpc_error
from serving.grpc_server import Server
from serving.telemetry.metrics import Metrics

pytestmark = pytest.mark.asyncio(loop_scope="module")

VOCABULARY = 320


class Rig:
    """A server in this process, its two stubs, and the folder that it loads adapters from."""

    def __init__(self, address: str, channel: Any, model: ServedModel, store: Path) -> None:
        self.stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        self.admin: Any = adapter_admin_pb2_grpc.AdapterAdminServiceStub(channel)
        self.address, self.model, self.store = address, model, store

    async def load(self, name: str, **fields: Any) -> admin.LoadAdapterResponse:
        reply: admin.LoadAdapterResponse = await self.admin.LoadAdapter(
            admin.LoadAdapterRequest(name=name, **fields), timeout=30
        )
        return reply

    async def unload(self, name: str) -> None:
        await self.admin.UnloadAdapter(admin.UnloadAdapterRequest(name=name), timeout=30)

    async def names(self) -> list[tuple[str, bool]]:
        listed = await self.stub.ListAdapters(pb.ListAdaptersRequest())
        return [(one.name, one.by_default) for one in listed.adapters]

    async def answer(self, *names: str, length: int = 12, text: str = "What?") -> list[int]:
        call = self.stub.Generate(request(*names, length=length, text=text), timeout=60)
        return [event.token.id async for event in call if event.HasField("token")]


def request(*names: str, length: int = 12, text: str = "What?", **fields: Any) -> pb.GenerateRequest:
    wanted = pb.GenerateRequest(
        turns=[pb.Turn(role=pb.ROLE_USER, text=text)],
        sampling=pb.SamplingParameters(max_new_tokens=length),
        **fields,
    )
    wanted.adapters.SetInParent()
    for name in names:
        wanted.adapters.adapters.add(name=name)
    return wanted


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    info = error_info(status_from_rpc_error(error.value))
    assert info is not None
    return error.value.code(), info.reason


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    root, store = tmp_path_factory.mktemp("adapters"), tmp_path_factory.mktemp("store")
    save_tiny_adapter(root / "object", VOCABULARY, seed=1)
    for seed, name in enumerate(("red", "green"), start=5):
        save_tiny_adapter(store / name, VOCABULARY, seed=seed, rank=2 + seed % 2)
    save_tiny_adapter(store / "foreign", VOCABULARY, seed=8, base="internlm2-7b")
    options = ServingOptions("fp32", root, 1, 4, 16, 16, None, 32, 12, 2048, True, store)
    model = assemble(
        tiny_model(VOCABULARY),
        tiny_tokenizer(),
        WeightsRecord("tiny", "00" * 32, "Apache-2.0"),
        options,
        base=BASE_NAME,
    )
    metrics = Metrics("llm_server")
    settings = LlmServerSettings(port=0, metrics_port=0, drain_grace_s=1)
    service = GenerationService(lambda: model, metrics, limits=settings.image_limits)
    servicers = [service.servicer(), AdapterService(lambda: service.model).servicer()]
    async with Server(settings=settings, servicers=servicers, metrics=metrics) as server:
        await service.warm_up()
        await server.ready()
        async with open_channel(server.address) as channel:
            yield Rig(server.address, channel, model, store)
        await service.close()


async def test_an_adapter_can_be_used_from_the_moment_it_is_loaded_and_no_longer(rig: Rig) -> None:
    version = rig.model.version
    reply = await rig.load("red")
    assert (reply.adapter.name, reply.adapter.rank, reply.replaced_sha256) == ("red", 3, "")
    assert await rig.names() == [("object", True), ("red", False)]
    assert rig.model.version != version
    assert await rig.answer("red") != await rig.answer()
    await rig.unload("red")
    assert await rig.names() == [("object", True)]
    assert await refused(rig.answer("red")) == (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND")
    assert rig.model.version == version


async def test_who_names_no_adapters_gets_a_new_one_only_if_it_is_loaded_for_all(rig: Rig) -> None:
    await rig.load("red", by_default=True)
    assert dict(rig.model.default_adapters) == {"object": 1.0, "red": 1.0}
    await rig.load("red", folder="green")
    assert dict(rig.model.default_adapters) == {"object": 1.0, "red": 1.0}
    await rig.unload("red")
    assert dict(rig.model.default_adapters) == {"object": 1.0}


async def test_a_hundred_swaps_under_way_drop_no_request_and_leave_nothing(rig: Rig) -> None:
    """Answers begun with one version end with it, though the name means the other by then."""
    expected = {}
    for name in ("red", "green"):
        await rig.load("colour", folder=name)
        expected[name] = await rig.answer("colour", length=60)
    assert expected["red"] != expected["green"]
    asked: list[tuple[str, asyncio.Task[list[int]]]] = []

    async def swap(times: int) -> None:
        for number in range(times):
            name = ("red", "green")[number % 2]
            await rig.load("colour", folder=name)
            if number % 10 == 0:
                asked.append((name, asyncio.create_task(rig.answer("colour", length=60))))
                async with asyncio.timeout(10):
                    while rig.model.engine.load[0] + rig.model.engine.load[1] == 0:  # noqa: ASYNC110
                        await asyncio.sleep(0.001)

    await swap(100)
    for name, answer in asked:
        ids = await answer
        assert ids in (expected["red"], expected["green"])
        assert len(ids) == len(expected[name])
    await rig.unload("colour")
    await rig.answer(length=1)
    assert rig.model.manager is not None
    assert len(rig.model.manager.stacked) == 1  # what ended was dropped with the next step
    assert await rig.names() == [("object", True)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "foreign"}, (grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_MISMATCH")),
        ({"name": "nowhere"}, (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND")),
        ({"name": "x", "folder": "../store"}, (grpc.StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_OPTION")),
        ({"name": "x", "folder": ".."}, (grpc.StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_OPTION")),
        ({"name": "../red"}, (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")),
        ({"name": "red", "model": "moai-7b"}, (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")),
    ],
    ids=str,
)
async def test_what_cannot_be_loaded_is_refused_and_changes_nothing(
    rig: Rig, fields: dict[str, str], expected: tuple[grpc.StatusCode, str]
) -> None:
    before = await rig.names()
    assert await refused(rig.load(**fields)) == expected
    assert await rig.names() == before


async def test_a_pickle_and_a_torn_file_are_refused(rig: Rig) -> None:
    for name in ("pickle", "torn"):
        shutil.copytree(rig.store / "red", rig.store / name, dirs_exist_ok=True)
    weights = rig.store / "pickle" / "adapter_model.safetensors"
    weights.rename(weights.with_name("adapter_model.bin"))
    torn = rig.store / "torn" / "adapter_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:100])
    config = json.loads((rig.store / "red" / "adapter_config.json").read_text())
    (rig.store / "dora").mkdir(exist_ok=True)
    (rig.store / "dora" / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    for name in ("pickle", "torn", "dora"):
        assert (await refused(rig.load(name)))[1] == "UNSUPPORTED_OPTION"


async def test_a_link_out_of_the_store_is_not_followed(rig: Rig, tmp_path: Path) -> None:
    save_tiny_adapter(tmp_path / "outside", VOCABULARY, seed=3)
    (rig.store / "linked").symlink_to(tmp_path / "outside")
    assert (await refused(rig.load("linked")))[1] == "ADAPTER_NOT_FOUND"


async def test_unloading_what_is_not_there_is_said(rig: Rig) -> None:
    assert await refused(rig.unload("nobody")) == (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND")


async def test_a_question_is_embedded_beside_an_answer_being_written(rig: Rig) -> None:
    async def embed(text: str, *names: str) -> pb.EmbedResponse:
        wanted = pb.EmbedRequest(text=text)
        wanted.adapters.SetInParent()
        for name in names:
            wanted.adapters.adapters.add(name=name)
        reply: pb.EmbedResponse = await rig.stub.Embed(wanted, timeout=30)
        return reply

    answer = asyncio.create_task(rig.answer(length=60))
    same, again, other, adapted = await asyncio.gather(
        embed("How many?"), embed("How many?"), embed("Where is it?"), embed("How many?", "object")
    )
    assert len(await answer) == 60
    assert len(same.values) == 32
    assert list(same.values) == list(again.values)
    assert list(same.values) != list(other.values)
    assert list(same.values) != list(adapted.values)
    assert same.text_tokens == len(rig.model.chat.encode_text("How many?"))
    assert (await refused(embed("so " * 3000)))[1] == "PROMPT_TOO_LONG"
    assert (await refused(embed("")))[1] == "INVALID_FIELD"
    assert (await refused(embed("?", "nobody")))[1] == "ADAPTER_NOT_FOUND"


async def test_the_command_line_loads_lists_and_unloads(rig: Rig) -> None:
    async def polysight(*words: str) -> tuple[int, dict[str, Any]]:
        command = ["adapters", *words, "--server", rig.address, "--json"]
        result = await asyncio.to_thread(CliRunner().invoke, app, command)
        # The server is in this process: what it logs meanwhile stands between.
        (told,) = [line for line in result.stdout.splitlines() if line.startswith("{")]
        return result.exit_code, json.loads(told)

    code, loaded = await polysight("load", "shade", "--folder", "green", "--by-default")
    assert (code, loaded["adapter"]["name"], loaded["adapter"]["by_default"]) == (0, "shade", True)
    code, listed = await polysight("list")
    assert [one["name"] for one in listed["adapters"]] == ["object", "shade"]
    assert (await polysight("unload", "shade"))[0] == 0
    code, told = await polysight("unload", "shade")
    assert (code, told["error"]["reason"]) == (1, "ADAPTER_NOT_FOUND")
