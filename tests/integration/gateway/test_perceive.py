"""Perceive through real gRPC: the gateway among dummy experts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from bench.dummies import fingerprint, model_info
from bench.dummy_mesh import DummyMesh
from polysight.common.v1 import geometry_pb2, model_pb2
from polysight.gateway.v1 import polysight_pb2
from polysight.llm.v1 import generation_pb2
from serving.errors import ImageCorruptError, QueueFullError, error_info, status_from_rpc_error

OK, FAILED = polysight_pb2.OUTCOME_OK, polysight_pb2.OUTCOME_FAILED
TIMED_OUT, SKIPPED = polysight_pb2.OUTCOME_TIMED_OUT, polysight_pb2.OUTCOME_SKIPPED
NAMES = ("panoptic", "detection", "scene_graph", "ocr")
Jpeg = Callable[[int], bytes]


def perceive(image: bytes, budget_ms: int = 0, **options: Any) -> polysight_pb2.PerceiveRequest:
    request = polysight_pb2.PerceiveRequest(options=polysight_pb2.PerceptionOptions(**options))
    request.image.data = image
    if budget_ms:
        request.options.budget.FromMilliseconds(budget_ms)
    return request


def outcomes(response: polysight_pb2.PerceiveResponse) -> dict[str, int]:
    return dict(zip(NAMES, (report.outcome for report in response.reports), strict=True))


def reason(error: grpc.RpcError) -> str:
    info = error_info(status_from_rpc_error(error))
    assert info is not None
    return str(info.reason)


async def stall(request: Any, context: Any) -> Any:
    await asyncio.sleep(30)


async def test_all_experts_answer_and_all_is_put_into_words(jpeg: Jpeg) -> None:
    async with DummyMesh() as mesh:
        response = await mesh.polysight.Perceive(perceive(jpeg(1)), metadata=(("x-request-id", "mine-1"),))
    assert outcomes(response) == dict.fromkeys(NAMES, OK)
    assert [report.expert for report in response.reports] == [1, 2, 3, 4]
    assert [report.WhichOneof("result") for report in response.reports] == list(NAMES)
    assert all(
        report.elapsed.ToNanoseconds() > 0 and report.HasField("status") for report in response.reports
    )
    text = response.verbalization.text
    assert response.verbalization.form == generation_pb2.VERBALIZATION_FORM_POLYSIGHT
    assert text.startswith("The image includes (#1 person) [0.00, 0.00, 0.20, 0.20], ")
    assert "person (#1) is beside bus (#1)" in text
    assert fingerprint(jpeg(1)) in text
    assert "unlabelled" not in text
    assert (response.crayon.height, response.crayon.width) == (35, 35)
    assert len(response.crayon.class_indices) == len(response.crayon.instance_ordinals) == 35 * 35
    assert set(response.crayon.class_indices) == {0, 1, 3, 6, 10}
    assert response.request_id == "mine-1"
    assert response.elapsed.ToNanoseconds() >= max(r.elapsed.ToNanoseconds() for r in response.reports)


async def test_phrases_lead_back_to_what_was_seen(jpeg: Jpeg) -> None:
    async with DummyMesh() as mesh:
        response = await mesh.polysight.Perceive(perceive(jpeg(2)))
    text = response.verbalization.text
    for phrase in response.verbalization.phrases:
        words = text[phrase.start : phrase.end]
        (index,) = phrase.indices
        if phrase.expert == polysight_pb2.EXPERT_PANOPTIC:
            segment = response.reports[0].panoptic.segments[index]
            assert segment.label in words
            assert phrase.box == segment.box
        elif phrase.expert == polysight_pb2.EXPERT_SCENE_GRAPH:
            assert response.reports[2].scene_graph.relations[index].predicate in words
        else:
            assert response.reports[3].ocr.lines[index].text == words
    experts = {phrase.expert for phrase in response.verbalization.phrases}
    assert experts == {1, 3, 4}


async def test_only_the_chosen_experts_are_asked(jpeg: Jpeg) -> None:
    async with DummyMesh() as mesh:
        response = await mesh.polysight.Perceive(perceive(jpeg(1), experts=[polysight_pb2.EXPERT_OCR]))
        calls = {name: expert.calls for name, expert in mesh.experts.items()}
    assert outcomes(response) == {**dict.fromkeys(NAMES, SKIPPED), "ocr": OK}
    assert calls == {**dict.fromkeys(NAMES, 0), "ocr": 1}
    assert not response.HasField("crayon")
    assert response.verbalization.text.startswith("The image includes text descriptions: ")


async def test_options_reach_the_expert_they_concern(jpeg: Jpeg) -> None:
    request = perceive(
        jpeg(1),
        vocabulary=["cat"],
        mask_encoding=geometry_pb2.MASK_ENCODING_NONE,
        profile=model_pb2.PROFILE_REFERENCE,
    )
    async with DummyMesh(crayon_size=20) as mesh:
        await mesh.polysight.Perceive(request)
        panoptic, detection = mesh.experts["panoptic"].requests[0], mesh.experts["detection"].requests[0]
        scene_graph = mesh.experts["scene_graph"].requests[0]
    assert detection.vocabulary == ["cat"]
    assert panoptic.mask_encoding == scene_graph.mask_encoding == geometry_pb2.MASK_ENCODING_NONE
    assert [(grid.height, grid.width) for grid in panoptic.grids] == [(20, 20)]
    assert {panoptic.profile, detection.profile, scene_graph.profile} == {model_pb2.PROFILE_REFERENCE}


@pytest.mark.parametrize("missing", range(1, 16))
async def test_any_experts_may_be_missing_in_any_way(jpeg: Jpeg, missing: int) -> None:
    """Every subset; the ways to be missing (absent, raising, stalled) go round, so that each expert sees each."""
    ways = ("absent", "raising", "stalled")
    plan = {
        name: ways[(place + missing) % 3] if missing >> place & 1 else "fine"
        for place, name in enumerate(NAMES)
    }

    async def refuse(request: Any, context: Any) -> Any:
        raise QueueFullError("the queue is full", retry_after_s=2.0)

    absent = [name for name, way in plan.items() if way == "absent"]
    async with DummyMesh(absent=absent) as mesh:
        for name, way in plan.items():
            if way != "fine":
                mesh.experts[name].act = refuse if way == "raising" else stall
        begun = time.perf_counter()
        response = await mesh.polysight.Perceive(perceive(jpeg(missing), budget_ms=700))
        took = time.perf_counter() - begun
    expected = {"fine": OK, "raising": FAILED, "absent": FAILED, "stalled": TIMED_OUT}
    assert outcomes(response) == {name: expected[way] for name, way in plan.items()}
    assert took < 5
    assert took >= 0.7 or "stalled" not in plan.values()
    for name, report in zip(NAMES, response.reports, strict=True):
        info = error_info(report.status)
        if plan[name] == "fine":
            assert report.status.code == 0
            continue
        assert info is not None
        assert report.WhichOneof("result") is None
        if plan[name] == "raising":
            assert info.reason == "QUEUE_FULL"
            retry = error_details_pb2.RetryInfo()
            assert any(detail.Unpack(retry) for detail in report.status.details)
        elif plan[name] == "stalled":
            assert (info.reason, info.metadata["expert"]) == ("EXPERT_TIMED_OUT", name)
            assert report.status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        else:
            assert (info.reason, info.metadata["expert"]) == ("EXPERT_UNAVAILABLE", name)
            assert report.status.code == grpc.StatusCode.UNAVAILABLE.value[0]
            assert "127.0.0.1" not in report.status.message
    sentence = "The image includes (#"
    assert response.verbalization.text.startswith(sentence) == (missing & 0b111 != 0b111)


async def test_missing_panoptic_falls_back_on_detections_and_then_on_relations(jpeg: Jpeg) -> None:
    async with DummyMesh(absent={"panoptic"}) as mesh:
        first = await mesh.polysight.Perceive(perceive(jpeg(1)))
        await mesh.stop("detection")
        second = await mesh.polysight.Perceive(perceive(jpeg(1)))
    assert first.verbalization.phrases[0].expert == polysight_pb2.EXPERT_DETECTION
    assert "person (#1) is beside bus (#1)" in first.verbalization.text
    assert not first.HasField("crayon")
    objects = [p for p in second.verbalization.phrases if p.expert == polysight_pb2.EXPERT_SCENE_GRAPH]
    assert second.verbalization.text.startswith("The image includes (#1 person)")
    assert [list(phrase.indices) for phrase in objects[-3:]] == [[0], [1], [2]]
    assert len(objects) == 5 + 3


async def test_the_caller_s_deadline_caps_the_budget(jpeg: Jpeg) -> None:
    async with DummyMesh(reply_reserve_s=0.5) as mesh:
        mesh.experts["ocr"].act = stall
        response = await mesh.polysight.Perceive(perceive(jpeg(1), budget_ms=60_000), timeout=2.0)
    assert outcomes(response)["ocr"] == TIMED_OUT
    assert 1e9 < response.elapsed.ToNanoseconds() < 2e9


async def test_experts_hear_of_their_budget_as_a_deadline(jpeg: Jpeg) -> None:
    left: list[float] = []

    async def note(request: Any, context: Any) -> Any:
        left.append(context.time_remaining())
        return await mesh.experts["ocr"].answer(request, context)

    async with DummyMesh() as mesh:
        mesh.experts["ocr"].act = note
        await mesh.polysight.Perceive(perceive(jpeg(1), budget_ms=3000))
    # gRPC carries a deadline in whole steps of a millisecond or more, rounded up.
    assert 2.5 < left[0] < 3.1


async def test_a_stalled_expert_hears_that_nobody_waits_any_more(jpeg: Jpeg) -> None:
    async with DummyMesh() as mesh:
        mesh.experts["ocr"].act = stall
        await mesh.polysight.Perceive(perceive(jpeg(1), budget_ms=100))
        await until(lambda: mesh.experts["ocr"].cancelled == 1)


async def test_a_caller_who_leaves_takes_the_experts_work_along(jpeg: Jpeg) -> None:
    async with DummyMesh() as mesh:
        for expert in mesh.experts.values():
            expert.act = stall
        call = mesh.polysight.Perceive(perceive(jpeg(1)))
        await until(lambda: all(expert.calls for expert in mesh.experts.values()))
        call.cancel()
        await until(lambda: all(expert.cancelled for expert in mesh.experts.values()))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (b"", "IMAGE_EMPTY"),
        (b"GIF99a no image", "IMAGE_UNSUPPORTED_FORMAT"),
        (b"\xff\xd8\xff\xe0 torn", "IMAGE_CORRUPT"),
    ],
)
async def test_a_bad_image_is_refused_before_anyone_is_asked(image: bytes, expected: str) -> None:
    async with DummyMesh() as mesh:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mesh.polysight.Perceive(perceive(image))
        calls = [expert.calls for expert in mesh.experts.values()]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(caught.value) == expected
    assert calls == [0, 0, 0, 0]


async def test_an_image_beyond_the_gateway_s_limits_is_refused(jpeg: Jpeg) -> None:
    async with DummyMesh(max_image_side=50) as mesh:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mesh.polysight.Perceive(perceive(jpeg(1)))
    assert reason(caught.value) == "IMAGE_TOO_LARGE"


async def test_a_picture_that_no_expert_can_open_is_the_caller_s_mistake(jpeg: Jpeg) -> None:
    async def torn(request: Any, context: Any) -> Any:
        raise ImageCorruptError("the image is truncated")

    async with DummyMesh() as mesh:
        for expert in mesh.experts.values():
            expert.act = torn
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mesh.polysight.Perceive(perceive(jpeg(1)))
        mesh.experts["ocr"].act = mesh.experts["ocr"].answer
        response = await mesh.polysight.Perceive(perceive(jpeg(1)))
    assert (caught.value.code(), reason(caught.value)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "IMAGE_CORRUPT",
    )
    assert outcomes(response) == {**dict.fromkeys(NAMES, FAILED), "ocr": OK}


async def test_field_rules_are_checked(jpeg: Jpeg) -> None:
    async with DummyMesh() as mesh:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mesh.polysight.Perceive(perceive(jpeg(1), experts=[1, 1]))
    assert reason(caught.value) == "INVALID_FIELD"


async def test_the_language_model_s_words_are_used_unless_the_caller_wants_others(jpeg: Jpeg) -> None:
    async with DummyMesh() as mesh:
        mesh.llm.models = (model_info(verbalization_form=generation_pb2.VERBALIZATION_FORM_MOAI),)
        await asyncio.sleep(0.05)
        default = await mesh.polysight.Perceive(perceive(jpeg(1)))
        wanted = perceive(jpeg(1), verbalization_form=generation_pb2.VERBALIZATION_FORM_COLLAVO)
        chosen = await mesh.polysight.Perceive(wanted)
    assert default.verbalization.form == generation_pb2.VERBALIZATION_FORM_MOAI
    lead = "The image includes bounding box coordinates and their objects: "
    assert default.verbalization.text.count(lead) == 2
    assert chosen.verbalization.form == generation_pb2.VERBALIZATION_FORM_COLLAVO
    assert chosen.verbalization.text.startswith("The image includes (#1 person) [")


async def test_without_a_language_model_server_the_gateway_s_own_words_are_used(jpeg: Jpeg) -> None:
    async with DummyMesh(absent={"llm_server"}, default_form="collavo") as mesh:
        response = await mesh.polysight.Perceive(perceive(jpeg(1)))
    assert response.verbalization.form == generation_pb2.VERBALIZATION_FORM_COLLAVO


async def test_each_reply_belongs_to_its_own_picture(jpeg: Jpeg) -> None:
    pictures = [jpeg(number) for number in range(10)]
    async with DummyMesh() as mesh:
        for expert in mesh.experts.values():
            expert.act = expert.take_its_time
        gate = asyncio.Semaphore(8)

        async def ask(number: int) -> tuple[int, str]:
            async with gate:
                response = await mesh.polysight.Perceive(perceive(pictures[number % 10]))
            assert outcomes(response) == dict.fromkeys(NAMES, OK)
            return number, response.reports[3].ocr.lines[0].text

        replies = await asyncio.gather(*(ask(number) for number in range(60)))
    assert all(text == fingerprint(pictures[number % 10]) for number, text in replies)


async def test_an_expert_that_comes_back_is_used_again(jpeg: Jpeg) -> None:
    async with DummyMesh() as mesh:
        assert outcomes(await mesh.polysight.Perceive(perceive(jpeg(1))))["ocr"] == OK
        await mesh.stop("ocr")
        assert outcomes(await mesh.polysight.Perceive(perceive(jpeg(1))))["ocr"] == FAILED
        await mesh.start("ocr")
        for _ in range(50):
            if outcomes(await mesh.polysight.Perceive(perceive(jpeg(1))))["ocr"] == OK:
                break
            await asyncio.sleep(0.1)
        else:
            pytest.fail("the expert was not found again within five seconds")


async def test_outcomes_and_added_time_are_counted(jpeg: Jpeg) -> None:
    async with DummyMesh(absent={"ocr"}) as mesh:
        await mesh.polysight.Perceive(perceive(jpeg(1), experts=[1, 2, 4]))
        value = mesh.metrics.value
        assert value("gateway_expert_calls_total", {"expert": "panoptic", "outcome": "ok"}) == 1
        assert value("gateway_expert_calls_total", {"expert": "scene_graph", "outcome": "skipped"}) == 1
        assert value("gateway_expert_calls_total", {"expert": "ocr", "outcome": "failed"}) == 1
        assert value("gateway_expert_seconds_count", {"expert": "panoptic"}) == 1
        assert value("gateway_perceive_added_seconds_count") == 1


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    for _ in range(round(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not happen in time")
