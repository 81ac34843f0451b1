"""Real photos, real weights, six real processes: what is asked is answered rightly."""

from __future__ import annotations

import io
import re
from pathlib import Path

import grpc
import pytest
from PIL import Image
from rich.console import Console

from cli import picture, report
from cli.ask import Conversation, answer_request, converse
from cli.connection import explain
from polysight.gateway.v1 import polysight_pb2 as gateway_pb2
from polysight.gateway.v1 import polysight_pb2_grpc as gateway_grpc

pytestmark = pytest.mark.weights


def _ask(channel: grpc.Channel, image: Path, question: str, **options: object) -> Conversation:
    quiet = Console(file=io.StringIO())
    request = answer_request(image.read_bytes(), question, **options)  # type: ignore[arg-type]
    return converse(channel, request, quiet, timeout_s=90)


def test_people_on_the_bus_picture_are_counted(channel: grpc.Channel, bus_jpg: Path) -> None:
    told = _ask(channel, bus_jpg, "How many people are in the picture?")
    assert re.search(r"\b(4|four)\b", told.answer.lower()), told.answer
    assert {report.status_name(one) for one in told.reports} == {"ok"}
    assert len(told.reports) == 4
    assert 0 < told.ttft_ms <= told.total_ms


def test_the_vehicle_is_named(channel: grpc.Channel, bus_jpg: Path) -> None:
    assert "bus" in _ask(channel, bus_jpg, "What vehicle is in the picture?").answer.lower()


def test_a_word_on_the_bus_is_read(channel: grpc.Channel, bus_jpg: Path) -> None:
    told = _ask(channel, bus_jpg, "What is written on the bus?")
    words = [line.text.lower() for one in told.reports if one.HasField("ocr") for line in one.ocr.lines]
    assert any("cero" in word for word in words), words
    assert any(word in told.answer.lower() for word in words), told.answer


def test_adapters_change_the_answer(channel: grpc.Channel, bus_jpg: Path) -> None:
    question = "Provide multiple bounding box coordinates for person in the image."
    with_both = _ask(channel, bus_jpg, question)
    without = _ask(channel, bus_jpg, question, adapters="none", max_new_tokens=40)
    assert with_both.done is not None
    assert without.done is not None
    assert sorted(one.name for one in with_both.done.adapters) == ["object", "vl"]
    assert not without.done.adapters
    assert with_both.answer != without.answer


def test_the_picture_shows_what_was_seen(polysight: gateway_grpc.PolysightServiceStub, bus_jpg: Path) -> None:
    request = gateway_pb2.PerceiveRequest()
    request.image.data = bus_jpg.read_bytes()
    reply = polysight.Perceive(request, timeout=60)
    drawn = picture.annotate(request.image.data, list(reply.reports))
    plain = Image.open(bus_jpg)
    assert drawn.width >= plain.width
    assert drawn.convert("RGB").resize(plain.size).tobytes() != plain.convert("RGB").tobytes()


def test_phrases_name_their_source(polysight: gateway_grpc.PolysightServiceStub, bus_jpg: Path) -> None:
    request = gateway_pb2.PerceiveRequest()
    request.image.data = bus_jpg.read_bytes()
    reply = polysight.Perceive(request, timeout=60)
    text = reply.verbalization.text
    segments = next(one.panoptic.segments for one in reply.reports if one.HasField("panoptic"))
    of_segments = [one for one in reply.verbalization.phrases if one.expert == gateway_pb2.EXPERT_PANOPTIC]
    assert of_segments
    for phrase in of_segments:
        assert segments[phrase.indices[0]].label in text[phrase.start : phrase.end]
    # The grid is that of the served model's crayon prompt, and what it shows is what was seen.
    assert (reply.crayon.height, reply.crayon.width) == (12, 12)
    assert len(reply.crayon.class_indices) == 144
    seen = {index for index in reply.crayon.class_indices if index}
    assert seen <= {segment.label_id + 1 for segment in segments}
    assert seen


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "IMAGE_EMPTY"), (b"not a picture", "IMAGE_UNSUPPORTED_FORMAT")]
)
def test_what_is_no_picture_is_refused_by_name(
    polysight: gateway_grpc.PolysightServiceStub, data: bytes, reason: str
) -> None:
    request = gateway_pb2.PerceiveRequest()
    request.image.SetInParent()
    request.image.data = data
    with pytest.raises(grpc.RpcError) as failed:
        polysight.Perceive(request, timeout=20)
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert explain(failed.value)["reason"] == reason
