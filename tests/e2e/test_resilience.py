"""Experts die, hang and come back; processes are told to stop under load; many callers at once."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from PIL import Image

from cli.connection import channel_to
from cli.mesh import EXPERTS, LLM_SERVER, PROCESSES, Mesh, ProcessSpec
from cli.report import EXPERTS_BY_NAME, status_name
from polysight.gateway.v1 import polysight_pb2 as gateway_pb2
from polysight.gateway.v1 import polysight_pb2_grpc as gateway_grpc
from polysight.llm.v1 import generation_pb2 as llm_pb2

pytestmark = pytest.mark.weights

BUDGET_S = 4.0


def _request(image: bytes, budget_s: float = BUDGET_S) -> gateway_pb2.AnswerRequest:
    request = gateway_pb2.AnswerRequest()
    request.image.data = image
    request.turns.add(role=llm_pb2.ROLE_USER, text="How many people are in the picture?")
    request.options.budget.FromMilliseconds(round(budget_s * 1000))
    return request


def _statuses(reports: Iterator[gateway_pb2.ExpertReport]) -> dict[int, str]:
    return {one.expert: status_name(one) for one in reports}


def _answer(
    stub: gateway_grpc.PolysightServiceStub,
    request: gateway_pb2.AnswerRequest,
    on_event: Callable[[str], None] = lambda kind: None,
) -> tuple[dict[int, str], gateway_pb2.AnswerDone, float]:
    """Statuses by expert, the end of the answer, and when the last report came (seconds)."""
    started = time.monotonic()
    reports: list[gateway_pb2.ExpertReport] = []
    last_report = 0.0
    done = gateway_pb2.AnswerDone()
    for event in stub.Answer(request, timeout=60):
        on_event(str(event.WhichOneof("event")))
        if event.WhichOneof("event") == "expert_report":
            reports.append(event.expert_report)
            last_report = time.monotonic() - started
        elif event.WhichOneof("event") == "done":
            done = event.done
    return _statuses(iter(reports)), done, last_report


def _wait_used_again(stub: gateway_grpc.PolysightServiceStub, expert: int, image: bytes) -> None:
    request = gateway_pb2.PerceiveRequest()
    request.image.data = image
    request.options.experts.append(expert)  # type: ignore[arg-type]
    deadline = time.monotonic() + 30
    status = ""
    while time.monotonic() < deadline:
        status = _statuses(iter(stub.Perceive(request, timeout=30).reports))[expert]
        if status == "ok":
            return
        time.sleep(0.3)
    pytest.fail(f"the restarted expert is not used again: {status}")


@pytest.mark.parametrize("spec", EXPERTS, ids=lambda spec: spec.name)
def test_a_killed_expert_is_missing_and_comes_back(
    mesh: Mesh, polysight: gateway_grpc.PolysightServiceStub, bus_jpg: Path, spec: ProcessSpec
) -> None:
    image = bus_jpg.read_bytes()
    process = mesh.processes[spec.name]
    # Stopped first, so that the call is surely under way when the process is killed.
    process.signal(signal.SIGSTOP)
    killer = threading.Timer(0.5, process.popen.kill)
    killer.start()
    statuses, done, last_report = _answer(polysight, _request(image))
    killer.join()
    process.popen.wait()
    expert = EXPERTS_BY_NAME[spec.name]
    assert statuses.pop(expert) == "failed"
    assert set(statuses.values()) == {"ok"}
    assert list(done.missing) == [expert]
    assert done.text
    assert last_report < BUDGET_S + 1.0

    mesh.start_process(spec)
    mesh.wait_serving(spec.name)
    _wait_used_again(polysight, expert, image)


@pytest.mark.parametrize("spec", EXPERTS, ids=lambda spec: spec.name)
def test_a_hung_expert_costs_its_budget_and_no_more(
    mesh: Mesh, polysight: gateway_grpc.PolysightServiceStub, bus_jpg: Path, spec: ProcessSpec
) -> None:
    image = bus_jpg.read_bytes()
    process = mesh.processes[spec.name]
    expert = EXPERTS_BY_NAME[spec.name]
    process.signal(signal.SIGSTOP)
    try:
        statuses, done, last_report = _answer(polysight, _request(image))
    finally:
        process.signal(signal.SIGCONT)
    assert statuses.pop(expert) == "timed_out"
    assert set(statuses.values()) == {"ok"}
    assert list(done.missing) == [expert]
    assert done.text
    assert BUDGET_S * 0.9 < last_report < BUDGET_S + 1.0
    _wait_used_again(polysight, expert, image)


def _ten_pictures(bus_jpg: Path, photos_dir: Path) -> list[bytes]:
    """Ten pictures of ten different sizes."""
    sources = [bus_jpg, *sorted(photos_dir.glob("*.jpg"))]
    pictures: list[bytes] = []
    for index in range(10):
        with Image.open(sources[index % len(sources)]) as source:
            side = 240 + 24 * index
            buffer = io.BytesIO()
            source.convert("RGB").resize((side, side + 7 * index + 1)).save(buffer, "JPEG")
        pictures.append(buffer.getvalue())
    return pictures


def _resident_bytes(mesh: Mesh) -> dict[str, int]:
    return {
        name: psutil.Process(process.popen.pid).memory_info().rss for name, process in mesh.processes.items()
    }


@pytest.mark.slow
def test_two_hundred_requests_at_concurrency_eight(
    mesh: Mesh, polysight: gateway_grpc.PolysightServiceStub, bus_jpg: Path, photos_dir: Path
) -> None:
    pictures = _ten_pictures(bus_jpg, photos_dir)

    def perceive(index: int) -> tuple[int, gateway_pb2.PerceiveResponse]:
        request = gateway_pb2.PerceiveRequest()
        request.image.data = pictures[index % len(pictures)]
        request.options.budget.FromSeconds(60)
        return index % len(pictures), polysight.Perceive(request, timeout=120)

    alone = {index: perceive(index)[1].verbalization.text for index in range(len(pictures))}
    assert len(set(alone.values())) >= 5, "the pictures are too alike to tell replies apart by their words"
    sizes = [Image.open(io.BytesIO(one)).size for one in pictures]

    def check(index: int, reply: gateway_pb2.PerceiveResponse) -> None:
        assert {status_name(one) for one in reply.reports} == {"ok"}
        results = [getattr(one, str(one.WhichOneof("result"))) for one in reply.reports]
        assert {(one.image_width, one.image_height) for one in results} == {sizes[index]}
        assert reply.verbalization.text == alone[index]

    resident: list[dict[str, int]] = []
    with ThreadPoolExecutor(8) as pool:
        for index, reply in pool.map(perceive, range(100)):
            check(index, reply)
        for start in range(100, 200, 10):
            for index, reply in pool.map(perceive, range(start, start + 10)):
                check(index, reply)
            resident.append(_resident_bytes(mesh))
    for name in mesh.processes:
        # The least of several: batches of different sizes come and go, a leak stays.
        early, late = (min(one[name] for one in half) for half in (resident[:5], resident[5:]))
        assert late - early < 16 * 2**20, (name, [one[name] >> 20 for one in resident])


def _answered_within(
    stub: gateway_grpc.PolysightServiceStub, request: gateway_pb2.AnswerRequest, seconds: float
) -> str:
    """The answer, asked for again while the process behind is still unavailable."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _answer(stub, request)[1].text
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.3)


@pytest.mark.parametrize("spec", PROCESSES, ids=lambda spec: spec.name)
def test_sigterm_under_load_loses_nothing(mesh: Mesh, bus_jpg: Path, spec: ProcessSpec) -> None:
    """Calls in progress in the process that is told to stop finish; it exits with 0 and can be started again."""
    image = bus_jpg.read_bytes()
    process = mesh.processes[spec.name]
    # The language model server is at work once a token has come; the others are as soon as the call is made.
    at_work = threading.Semaphore(0)

    def on_event(kind: str) -> None:
        if kind == "token":
            at_work.release()

    with channel_to(mesh.gateway_address) as channel, ThreadPoolExecutor(4) as pool:
        stub = gateway_grpc.PolysightServiceStub(channel)
        load = 4 if spec is not LLM_SERVER else 1
        in_flight = [pool.submit(_answer, stub, _request(image, budget_s=30), on_event) for _ in range(load)]
        if spec is LLM_SERVER:
            assert at_work.acquire(timeout=60)
        else:
            time.sleep(0.15)
        process.signal(signal.SIGTERM)
        answers = [one.result(timeout=90) for one in in_flight]
    for statuses, done, _ in answers:
        assert done.text
        assert set(statuses.values()) == {"ok"}, statuses
    assert process.popen.wait(45) == 0, process.log_tail()
    mesh.start_process(spec)
    mesh.wait_serving(spec.name)
    with channel_to(mesh.gateway_address) as channel:
        stub = gateway_grpc.PolysightServiceStub(channel)
        if spec.name in EXPERTS_BY_NAME:
            _wait_used_again(stub, EXPERTS_BY_NAME[spec.name], image)
        assert _answered_within(stub, _request(image), seconds=20)
