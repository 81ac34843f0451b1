"""What is known of the language models, for how long, and who has to wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest

from bench.dummies import DummyLanguageModels, model_info
from gateway.llm import Lookup, RemoteLanguageModels
from polysight.llm.v1 import generation_pb2_grpc
from serving.errors import ExpertTimedOutError, ExpertUnavailableError, ModelNotFoundError, NotReadyError


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Slow(DummyLanguageModels):
    """Lists its models only when let."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def ListModels(self, request: object, context: object) -> object:  # type: ignore[override]
        await self.gate.wait()
        return await super().ListModels(request, context)  # type: ignore[arg-type]


@asynccontextmanager
async def serving(dummy: DummyLanguageModels, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server()
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(dummy, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


@asynccontextmanager
async def models_at(port: int, clock: Clock, lookup_s: float = 2.0) -> AsyncIterator[RemoteLanguageModels]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield RemoteLanguageModels(channel, ttl_s=30, lookup_s=lookup_s, retry_s=1, clock=clock)


async def settle() -> None:
    await asyncio.sleep(0.1)


async def test_asked_once_and_then_known_until_it_is_old_and_even_then_at_once() -> None:
    dummy, clock = DummyLanguageModels(model_info("a"), model_info("b")), Clock()
    async with serving(dummy) as port, models_at(port, clock) as models:
        assert models.known("") is None
        found = await asyncio.gather(*(models.find(name, 2.0) for name in ("", "b", "a", "")))
        assert [info.model.name for info in found] == ["a", "b", "a", "a"]
        assert dummy.listed == 1
        clock.now += 29.9
        assert models.known("b") is not None
        dummy.models = (model_info("c"),)
        clock.now += 0.2
        stale = models.known("b")
        assert stale is not None
        await settle()
        assert dummy.listed == 2
        fresh = models.known("")
        assert fresh is not None
        assert fresh.model.name == "c"


async def test_an_unknown_name_is_refused_only_on_fresh_knowledge() -> None:
    dummy, clock = DummyLanguageModels(model_info("a")), Clock()
    async with serving(dummy) as port, models_at(port, clock) as models:
        await models.find("", 2.0)
        with pytest.raises(ModelNotFoundError, match="there are: a"):
            models.known("b")
        dummy.models = (model_info("a"), model_info("b"))
        clock.now += 31
        assert models.known("b") is None
        assert (await models.find("b", 2.0)).model.name == "b"


async def test_nobody_there_is_said_at_once_and_not_asked_again_too_soon() -> None:
    clock = Clock()
    async with serving(DummyLanguageModels()) as port:
        pass
    dummy = DummyLanguageModels()
    async with models_at(port, clock) as models:
        with pytest.raises(ExpertUnavailableError):
            await models.find("", 2.0)
        async with serving(dummy, port):
            with pytest.raises(ExpertUnavailableError):
                await models.find("", 2.0)
            assert dummy.listed == 0
            for _ in range(50):
                clock.now += 1.1
                try:
                    await models.find("", 2.0)
                    break
                except ExpertUnavailableError:
                    await settle()
            assert models.known("") is not None
        clock.now += 31
        assert (await models.find("", 2.0)).model.name == "dummy"


async def test_a_server_without_models_is_not_ready() -> None:
    dummy = DummyLanguageModels()
    dummy.models = ()
    async with serving(dummy) as port, models_at(port, Clock()) as models:
        with pytest.raises(NotReadyError):
            await models.find("", 2.0)


async def test_who_has_little_time_does_not_end_it_for_the_others() -> None:
    dummy = Slow()
    async with serving(dummy) as port, models_at(port, Clock()) as models:
        patient = asyncio.create_task(models.find("", 5.0))
        leaving = asyncio.create_task(models.find("", 5.0))
        with pytest.raises(ExpertTimedOutError):
            await models.find("", 0.05)
        leaving.cancel()
        dummy.gate.set()
        assert (await patient).model.name == "dummy"
        assert dummy.listed == 1


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    dummy = Slow()
    async with serving(dummy) as port, models_at(port, Clock(), lookup_s=0.1) as models:
        with pytest.raises(ExpertTimedOutError):
            await models.find("", 5.0)
        dummy.gate.set()


async def test_a_lookup_runs_beside_other_work_and_ends_with_it() -> None:
    dummy = Slow()
    async with serving(dummy) as port, models_at(port, Clock()) as models:
        async with Lookup(models, "", 5.0) as lookup:
            assert lookup.known is None
            assert await lookup.within(0.02) is None
            with pytest.raises(ExpertTimedOutError):
                await lookup.result(0.02)
            dummy.gate.set()
            assert (await lookup.result()).model.name == "dummy"
            assert await lookup.within(0.0) is not None
        async with Lookup(models, "", 5.0) as lookup:
            assert lookup.known is not None
            assert await lookup.result() == lookup.known == await lookup.within(0.0)
        with pytest.raises(ModelNotFoundError):
            await Lookup(models, "other", 5.0).__aenter__()
