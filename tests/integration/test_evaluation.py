"""The probes through the real gateway among dummies: what is asked, kept, reused and reported."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from bench.dummies import model_info
from bench.dummy_mesh import DummyMesh
from llm_server.evaluation.harness.client import GatewayClient, Reply
from llm_server.evaluation.harness.example import Condition, Example, PictureFile
from llm_server.evaluation.harness.record_file import RecordFile
from llm_server.evaluation.harness.runner import MAX_FAILURES_IN_A_ROW, Ask, Run, run
from llm_server.evaluation.probes.answers import mark
from llm_server.evaluation.probes.coco import AnnotatedSet, read_annotations
from llm_server.evaluation.probes.evaluate import BASE, MODEL, conditions, outcome, worst_cases
from llm_server.evaluation.probes.pope import make_pope
from llm_server.evaluation.probes.prompts import FORMS
from llm_server.evaluation.probes.questions import KINDS, make_questions
from polysight.llm.v1 import generation_pb2
from serving.errors import QueueFullError

NAMES = ("person", "bus", "car", "traffic light", "dog", "cup")


@pytest.fixture
def annotated(tmp_path: Path) -> AnnotatedSet:
    """Two pictures of the twelve objects that all dummies see: three of each of four kinds, on a grid."""
    places = [(NAMES[k % 4], (k % 4) * 25, (k // 4) * 25) for k in range(12)]
    for number in (1, 2):
        Image.new("RGB", (100, 100), (number, 0, 0)).save(tmp_path / f"{number}.png")
    told = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 100, "height": 100} for n in (1, 2)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES)],
        "annotations": [
            {"image_id": n, "category_id": NAMES.index(name), "bbox": [x, y, 20, 20]}
            for n in (1, 2)
            for name, x, y in places
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(told))
    return read_annotations(tmp_path / "instances.json", tmp_path)


def reads_the_words(request: generation_pb2.GenerateRequest) -> str:
    """A language model that reads the object sentence without fault; without adapters it always says yes."""
    if not request.adapters.adapters and request.HasField("adapters"):
        return "Yes."
    question, words = request.turns[-1].text, request.verbalized_text
    objects = re.findall(r"\(#\d+ ([a-z ]+)\) \[([^]]+)\]", words)
    if found := re.search(r'category "([^"]+)"', question):
        return "Yes." if found[1] in dict(objects) else "No."
    if found := re.search(r"Is there an? ([a-z ]+) in", question):
        return "Yes" if found[1] in dict(objects) else "No"
    if found := re.search(r"How many ([a-z ]+) are", question):
        return str(sum(found[1].startswith(name) for name, _ in objects))
    if found := re.search(r"coordinates for ([a-z ]+) in", question):
        return ", ".join(f"[{box}]" for name, box in objects if name == found[1])
    corners = re.findall(r"corner is \[([^]]+)\]", question)
    return str(next(name for name, box in objects if box == ", ".join(corners)))


def asking(mesh: DummyMesh, **options: Any) -> Ask:
    client = GatewayClient(mesh.channel, timeout_s=20, **options)

    def ask(image: bytes, question: str, condition: Condition, tokens: int) -> Awaitable[Reply]:
        return client.ask(image, question, condition, max_new_tokens=tokens)

    return ask


async def all_probes(
    mesh: DummyMesh, examples: list[Example], path: Path, advance: Callable[[int], None] = lambda done: None
) -> Run:
    return await run(
        examples, conditions("", (), base=True), ask=asking(mesh), score=mark, records=RecordFile(path),
        concurrency=6, advance=advance,
    )  # fmt: skip


async def test_a_model_that_reads_without_fault_scores_as_the_perfect_reader(
    annotated: AnnotatedSet, tmp_path: Path
) -> None:
    examples = make_questions(annotated, FORMS["published"]) + make_pope(annotated)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more

    async with DummyMesh() as mesh:
        mesh.llm.say = reads_the_words
        ran = await all_probes(mesh, examples, tmp_path / "records.jsonl", count)
        asked = mesh.llm.requests
        seen = mesh.experts["panoptic"].requests[-1]
    assert done == 2 * len(examples) == len(asked) == len(ran.records)
    result = outcome(examples, ran)
    report = result.report
    assert [report["perfect_reader"][kind] for kind in KINDS] == [1.0] * 4
    # This reader does not know that "people" asks for person.
    assert [report[kind] for kind in KINDS] == [1.0, pytest.approx(0.75), 1.0, 1.0]
    assert report["base"]["existence"] == pytest.approx(8 / 12, abs=1e-4)
    assert report["base"]["class_to_box"] == 0.0
    assert report["pope"]["random"] == {
        "accuracy": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0, "yes_ratio": 0.6, "perfect_reader": 1.0,
    }  # fmt: skip
    assert report["of_perfect_reader"]["existence"] == {"share": 1.0, "low": 1.0, "high": 1.0}
    assert (report["failed"], report["incomplete"], report["pictures"]) == (0, 0, 2)
    assert report["served"]["llm_server"] == ["dummy 1 dummy"]
    worst = worst_cases(result.readings)
    assert {case.record.group for case in worst} == {"count"}
    assert all(case.image is not None and case.boxes for case in worst)
    greedy = {request.sampling.temperature for request in asked}
    assert greedy == {0.0}
    assert seen.mask_encoding == 3


async def test_a_later_run_asks_only_what_is_not_there(annotated: AnnotatedSet, tmp_path: Path) -> None:
    examples = make_questions(annotated, FORMS["published"])
    path = tmp_path / "records.jsonl"
    async with DummyMesh() as mesh:
        mesh.llm.say = reads_the_words
        first = await all_probes(mesh, examples[:10], path)
        mesh.llm.requests.clear()
        second = await all_probes(mesh, examples, path)
    assert first.reused == 0
    # One question of each condition is asked again, to learn who answers.
    assert (second.reused, second.stale) == (18, 0)
    assert len(mesh.llm.requests) == 2 * (len(examples) - 10) + 2
    assert [record.id for record in second.records] == 2 * [example.id for example in examples]


async def test_answers_of_another_version_are_not_believed(annotated: AnnotatedSet, tmp_path: Path) -> None:
    examples = make_questions(annotated, FORMS["published"], kinds=["existence"])
    path = tmp_path / "records.jsonl"
    async with DummyMesh() as mesh:
        mesh.llm.say = reads_the_words
        await all_probes(mesh, examples, path)
    async with DummyMesh() as mesh:
        newer = model_info()
        newer.model.version = "2"
        mesh.llm.models = (newer,)
        mesh.llm.say = lambda request: "No."
        again = await all_probes(mesh, examples, path)
    assert (again.reused, again.stale) == (0, 2 * len(examples) - 2)
    assert {record.answer for record in again.records} == {"No."}


async def test_a_changed_picture_is_asked_about_again(annotated: AnnotatedSet, tmp_path: Path) -> None:
    examples = make_questions(annotated, FORMS["published"], kinds=["count"])
    path = tmp_path / "records.jsonl"
    async with DummyMesh() as mesh:
        mesh.llm.say = reads_the_words
        await all_probes(mesh, examples, path)
        Image.new("RGB", (100, 100), (9, 9, 9)).save(tmp_path / "2.png")
        again = await all_probes(mesh, examples, path)
    assert again.stale == 8
    assert again.reused == 6


async def test_missing_experts_are_told_and_questions_that_cannot_be_asked_are_failures(
    annotated: AnnotatedSet, tmp_path: Path
) -> None:
    (example, *_) = make_questions(annotated, FORMS["published"], kinds=["existence"])
    gone = Example(
        "gone", "existence", PictureFile(tmp_path / "gone.png"), "?", "Yes.", details={"name": "dog"}
    )
    async with DummyMesh(absent={"panoptic"}) as mesh:
        mesh.llm.say = reads_the_words
        ran = await all_probes(mesh, [example, gone], tmp_path / "records.jsonl")
    report = outcome([example, gone], ran).report
    assert (report["incomplete"], report["failed"], report["existence"]) == (2, 2, 1.0)
    assert report["perfect_reader"]["existence"] == 1.0
    assert {failure.id for failure in ran.failures} == {"gone"}


async def test_a_gateway_that_is_not_there_is_given_up(annotated: AnnotatedSet, tmp_path: Path) -> None:
    examples = make_questions(annotated, FORMS["published"])

    asked = 0

    async def refuse(image: bytes, question: str, condition: Condition, tokens: int) -> Reply:
        nonlocal asked
        asked += 1
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="nobody"
        )

    ran = await run(
        examples, [Condition(MODEL), Condition(BASE, ())], ask=refuse, score=mark,
        records=RecordFile(tmp_path / "records.jsonl"),
    )  # fmt: skip
    assert ran.records == []
    assert len(ran.failures) == 2 * len(examples)
    assert MAX_FAILURES_IN_A_ROW <= asked < MAX_FAILURES_IN_A_ROW + 4
    assert ran.failures[0].reason == "UNAVAILABLE: nobody"
    assert "not asked" in ran.failures[-1].reason


async def test_a_full_queue_is_asked_again_when_it_says(annotated: AnnotatedSet) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    async with DummyMesh() as mesh:
        calls = 0

        def busy(request: generation_pb2.GenerateRequest) -> str:
            nonlocal calls
            calls += 1
            if calls <= 2:
                raise QueueFullError("no room", retry_after_s=0.25)
            return "Yes."

        mesh.llm.say = busy
        image = annotated.pictures[0].path.read_bytes()
        reply = await asking(mesh, sleep=wait)(image, "Is there a dog?", Condition(MODEL), 8)
    assert reply.answer == "Yes."
    assert len(waits) == 2
    assert reply.total_ms >= reply.first_token_ms > 0
