"""Experts that are killed or stopped under the gateway's hands, as real processes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeAlias

import grpc.aio
import pytest
import pytest_asyncio

from bench.dummy_processes import DummyProcesses
from polysight.gateway.v1 import polysight_pb2, polysight_pb2_grpc
from polysight.llm.v1 import generation_pb2
from serving.channel import open_channel

pytestmark = pytest.mark.slow

OK, FAILED, TIMED_OUT = (
    polysight_pb2.OUTCOME_OK,
    polysight_pb2.OUTCOME_FAILED,
    polysight_pb2.OUTCOME_TIMED_OUT,
)
OCR, DETECTION = polysight_pb2.EXPERT_OCR, polysight_pb2.EXPERT_DETECTION
Stub: TypeAlias = "polysight_pb2_grpc.PolysightServiceAsyncStub"
Jpeg = Callable[[int], bytes]


@pytest.fixture(scope="module")
def mesh() -> Iterator[DummyProcesses]:
    with DummyProcesses() as mesh:
        yield mesh


@pytest_asyncio.fixture
async def stub(mesh: DummyProcesses) -> AsyncIterator[Stub]:
    async with open_channel(f"127.0.0.1:{mesh.ports['gateway']}") as channel:
        yield polysight_pb2_grpc.PolysightServiceStub(channel)


async def answer(stub: Stub, image: bytes, budget_ms: int) -> tuple[dict[int, int], str, float]:
    """Outcome by expert, the answer, and the seconds it all took."""
    request = polysight_pb2.AnswerRequest(
        turns=[generation_pb2.Turn(role=generation_pb2.ROLE_USER, text="What is it?")]
    )
    request.image.data = image
    request.options.budget.FromMilliseconds(budget_ms)
    outcomes: dict[int, int] = {}
    text = ""
    begun = time.perf_counter()
    async for event in stub.Answer(request, timeout=60):
        if event.HasField("expert_report"):
            outcomes[event.expert_report.expert] = event.expert_report.outcome
        elif event.HasField("done"):
            text = event.done.text
    return outcomes, text, time.perf_counter() - begun


async def all_there(stub: Stub, image: bytes) -> None:
    """Wait until an answer has every expert in it."""
    async with asyncio.timeout(60):
        for _ in range(600):
            try:
                outcomes, _, _ = await answer(stub, image, 2000)
            except grpc.aio.AioRpcError:
                outcomes = {}
            if outcomes and set(outcomes.values()) == {OK}:
                return
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("number", "outcome"), [(signal.SIGKILL, FAILED), (signal.SIGSTOP, TIMED_OUT)], ids=["killed", "stopped"]
)
async def test_an_answer_comes_without_an_expert_that_is_killed_or_stopped(
    mesh: DummyProcesses, stub: Stub, jpeg: Jpeg, number: signal.Signals, outcome: int
) -> None:
    await all_there(stub, jpeg(0))
    before, first, _ = await answer(stub, jpeg(1), 2000)
    assert set(before.values()) == {OK}
    mesh.signal("ocr", number)
    outcomes, text, took = await answer(stub, jpeg(1), 2000)
    assert outcomes == {**dict.fromkeys(before, OK), OCR: outcome}
    assert took < (2.0 if outcome == FAILED else 3.0)
    assert text
    assert text in first
    if number == signal.SIGSTOP:
        mesh.signal("ocr", signal.SIGKILL)
    mesh.start("ocr")
    await all_there(stub, jpeg(2))


async def test_experts_killed_while_they_work_are_named(mesh: DummyProcesses, stub: Stub, jpeg: Jpeg) -> None:
    await all_there(stub, jpeg(0))
    asking = asyncio.create_task(answer(stub, jpeg(3), 5000))
    await asyncio.sleep(0.01)
    mesh.signal("detection", signal.SIGKILL)
    outcomes, text, took = await asking
    assert outcomes[DETECTION] in {OK, FAILED}
    assert {outcome for expert, outcome in outcomes.items() if expert != DETECTION} == {OK}
    assert text
    assert took < 5
    outcomes, _, _ = await answer(stub, jpeg(3), 5000)
    assert outcomes[DETECTION] == FAILED
    mesh.start("detection")
    await all_there(stub, jpeg(4))


async def test_a_stopped_expert_that_goes_on_is_used_again(
    mesh: DummyProcesses, stub: Stub, jpeg: Jpeg
) -> None:
    await all_there(stub, jpeg(0))
    mesh.signal("ocr", signal.SIGSTOP)
    outcomes, _, took = await answer(stub, jpeg(5), 500)
    assert outcomes[OCR] == TIMED_OUT
    assert took < 2
    mesh.signal("ocr", signal.SIGCONT)
    await all_there(stub, jpeg(6))
