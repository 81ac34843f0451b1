"""The OCR service over real gRPC in this process; with the real models where their weights can be had."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest
from PIL import Image

from bench.text_pages import sign
from polysight.common.v1 import image_pb2, model_pb2
from polysight.vision.v1 import ocr_pb2, ocr_pb2_grpc
from services.ocr.__main__ import CLASSIFIER, DETECTOR, RECOGNIZER, load
from services.ocr.model import Limits, OcrModel, OcrParams
from services.ocr.service import FULL_NAME, OcrExpert, OcrService, describe
from services.ocr.settings import OcrSettings
from services.ocr.stages import OcrStages
from serving.channel import open_channel
from serving.engine import FakeEngine, TensorSpec
from serving.errors import error_info, status_from_rpc_error
from serving.grpc_server import Server, Servicer
from serving.settings import ServerSettings
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore

CHARSET = ("", *"ABCDEFGHIJ", " ")
Arrays = Mapping[str, np.ndarray[Any, Any]]
Stub: TypeAlias = "ocr_pb2_grpc.OcrServiceAsyncStub"  # known to type checkers alone


@contextlib.asynccontextmanager
async def serving(expert: OcrExpert, metrics: Metrics) -> AsyncIterator[Stub]:
    """A server that answers with `expert`, and a stub that calls it."""
    ready: asyncio.Future[OcrExpert] = asyncio.get_running_loop().create_future()
    service = OcrService(ready)
    servicer = Servicer(
        FULL_NAME, lambda server: ocr_pb2_grpc.add_OcrServiceServicer_to_server(service, server)
    )
    async with Server(settings=ServerSettings(port=0), servicers=[servicer], metrics=metrics) as server:
        ready.set_result(expert)
        await server.ready()
        async with open_channel(server.address) as channel:
            yield ocr_pb2_grpc.OcrServiceStub(channel)
        await expert.stages.close()
        expert.model.close()


def fake_expert(metrics: Metrics, defaults: OcrParams) -> OcrExpert:
    """Text is where red is lit; the letter is how green its middle is, and surer the greener it is."""

    def spec(name: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name, shape, "float32")

    def detect(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        return {"map": (inputs["x"][:, 2:3] > 0).astype(np.float32) * np.float32(0.9)}

    def recognise(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        x = (inputs["x"] + 1) / 2
        y = np.zeros((len(x), 3, len(CHARSET)), dtype=np.float32)
        y[:, [0, 2], 0] = 1.0
        for row, (_, green, red) in zip(y, x, strict=True):
            lit = np.flatnonzero(red[24] > 0.6)
            level = float(green[24, lit[len(lit) // 2]])
            row[1, 1 + round(level * 9)] = 0.6 + 0.4 * level
        return {"y": y}

    model = OcrModel(
        FakeEngine([spec("x", "n", 3, "h", "w")], [spec("map", "n", 1, "h", "w")], detect, max_batch=1),
        FakeEngine([spec("x", "n", 3, 48, "w")], [spec("y", "n", "t", len(CHARSET))], recognise),
        None,
        CHARSET,
        limits=Limits(min_side=32, max_side=640),
    )
    description = describe(
        model=model_pb2.ModelRef(name="fake-ocr", version="1", engine="fake"),
        charset=CHARSET,
        defaults=defaults,
        max_batch=4,
        weights=[],
    )
    stages = OcrStages(model, metrics=metrics, max_batch=4, max_lines=8, max_queue=32)
    return OcrExpert(model, stages, defaults, description)


@pytest.fixture
async def fake() -> AsyncIterator[Stub]:
    metrics = Metrics("ocr")
    async with serving(fake_expert(metrics, OcrParams(min_confidence=0.65)), metrics) as stub:
        yield stub


def picture(*lines: tuple[str, int, int]) -> image_pb2.Image:
    """320 x 240 pixels, black, with a line 120 x 20 for each (letter, x, y)."""
    pixels = np.zeros((240, 320, 3), dtype=np.uint8)
    for letter, x, y in lines:
        pixels[y : y + 20, x : x + 120, 0] = 255
        pixels[y : y + 20, x : x + 120, 1] = round((ord(letter) - ord("A")) / 9 * 255)
    return to_message(Image.fromarray(pixels))


def to_message(image: Image.Image) -> image_pb2.Image:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return image_pb2.Image(data=buffer.getvalue())


def ask(image: image_pb2.Image, **fields: Any) -> ocr_pb2.RecognizeTextRequest:
    return ocr_pb2.RecognizeTextRequest(image=image, **fields)


def texts(reply: ocr_pb2.RecognizeTextResponse) -> list[str]:
    return [line.text for line in reply.lines]


async def test_a_reply_says_what_where_how_sure_and_how_long(fake: Stub) -> None:
    reply = await fake.RecognizeText(ask(picture(("J", 100, 100), ("E", 20, 30))))

    assert texts(reply) == ["E", "J"]
    assert (reply.image_width, reply.image_height) == (320, 240)
    line = reply.lines[1]
    assert line.confidence == pytest.approx(1.0, abs=0.02)
    assert len(line.polygon.points) == 4
    assert line.polygon.points[0].x == pytest.approx(100 / 320, abs=0.08)
    assert line.polygon.points[0].y == pytest.approx(100 / 240, abs=0.08)
    assert line.box.x_min == min(point.x for point in line.polygon.points)
    assert line.box.y_max == max(point.y for point in line.polygon.points)
    assert not line.upside_down
    assert reply.model.name == "fake-ocr"
    assert reply.timings.batch_size == 1
    assert reply.timings.inference.ToNanoseconds() > 0
    assert reply.timings.preprocess.ToNanoseconds() > 0


async def test_an_image_without_text_gives_an_empty_list(fake: Stub) -> None:
    reply = await fake.RecognizeText(ask(picture()))

    assert texts(reply) == []
    assert (reply.image_width, reply.image_height) == (320, 240)


async def test_thresholds_of_the_request_come_before_the_server_s(fake: Stub) -> None:
    image = picture(("A", 20, 30), ("D", 20, 90), ("J", 20, 150))

    assert texts(await fake.RecognizeText(ask(image))) == ["D", "J"]
    assert texts(await fake.RecognizeText(ask(image, confidence_threshold=0.0))) == ["A", "D", "J"]
    assert texts(await fake.RecognizeText(ask(image, confidence_threshold=0.9))) == ["J"]
    assert texts(await fake.RecognizeText(ask(image, detection_threshold=1.0))) == []


async def test_concurrent_callers_get_their_own_lines(fake: Stub) -> None:
    letters = "DEFGHIJ" * 3

    replies = await asyncio.gather(
        *(fake.RecognizeText(ask(picture((letter, 40, 60)), confidence_threshold=0.0)) for letter in letters)
    )

    assert [texts(reply) for reply in replies] == [[letter] for letter in letters]
    assert max(reply.timings.batch_size for reply in replies) > 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "IMAGE_EMPTY"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "IMAGE_UNSUPPORTED_FORMAT"),
        (picture(("D", 40, 60)).data[:60], "IMAGE_CORRUPT"),
    ],
)
async def test_bad_images_are_told_why(fake: Stub, data: bytes, reason: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fake.RecognizeText(ask(image_pb2.Image(data=data)))

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    info = error_info(status_from_rpc_error(caught.value))
    assert info is not None
    assert info.reason == reason


@pytest.mark.parametrize(
    "request_",
    [
        ocr_pb2.RecognizeTextRequest(),
        ask(picture(), confidence_threshold=1.5),
        ask(picture(), detection_threshold=-0.1),
    ],
)
async def test_fields_outside_the_contract_are_refused(
    fake: Stub, request_: ocr_pb2.RecognizeTextRequest
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fake.RecognizeText(request_)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_describe(fake: Stub) -> None:
    description = (await fake.Describe(ocr_pb2.OcrServiceDescribeRequest())).description

    assert description.vocabulary_size == len(CHARSET) - 1
    assert dict(description.thresholds) == pytest.approx(
        {"confidence_threshold": 0.65, "detection_threshold": 0.5}
    )
    assert description.max_batch_size == 4


@pytest.fixture(scope="module")
def real_model() -> tuple[OcrModel, ocr_pb2.OcrServiceDescribeResponse]:
    """The models that are served by default, loaded and warmed up as the process does it."""
    settings = OcrSettings(threads=2, max_batch=1)
    expert = load(settings, WeightStore(), Metrics("ocr"))
    return expert.model, ocr_pb2.OcrServiceDescribeResponse(description=expert.description)


def read(model: OcrModel, image: Image.Image) -> list[tuple[str, bool]]:
    params = OcrParams()
    (raw,) = model.infer([model.preprocess(np.asarray(image.convert("RGB")), params)])
    return [(line.text, line.upside_down) for line in model.postprocess(raw, params).lines]


Real = tuple[OcrModel, ocr_pb2.OcrServiceDescribeResponse]


@pytest.mark.weights
def test_words_on_the_bus(real_model: Real, bus_jpg: Path) -> None:
    words = [text for text, _ in read(real_model[0], Image.open(bus_jpg))]

    assert "cero" in words
    assert "emisiones" in words


@pytest.mark.weights
def test_two_men_without_words(real_model: Real, zidane_jpg: Path) -> None:
    assert len(read(real_model[0], Image.open(zidane_jpg))) <= 1


@pytest.mark.weights
@pytest.mark.parametrize("text", ["HELLO 42", "Room 7-B, floor 3"])
def test_a_sign_is_read_exactly_on_its_feet_and_on_its_head(real_model: Real, text: str) -> None:
    board = sign(text, size=60)

    assert read(real_model[0], board) == [(text, False)]
    assert read(real_model[0], board.rotate(180)) == [(text, True)]


@pytest.mark.weights
@pytest.mark.parametrize("angle", [90, 270])
def test_a_line_that_runs_up_or_down_is_read(real_model: Real, angle: int) -> None:
    assert read(real_model[0], sign("VERTICAL 7", size=40).rotate(angle, expand=True)) == [
        ("VERTICAL 7", angle == 90)
    ]


@pytest.mark.weights
def test_a_long_line_is_read_to_its_end(real_model: Real) -> None:
    text = "NEXT STOP CENTRAL STATION - CHANGE HERE FOR THE AIRPORT EXPRESS AND LINES 2, 4 AND 7"

    assert read(real_model[0], sign(text, size=34, margin=14)) == [(text, False)]


@pytest.mark.weights
def test_a_line_longer_than_the_network_is_read_in_pieces(real_model: Real) -> None:
    """Thirty-six words beside one another: more columns than one run takes."""
    text = " ".join(["NEXT STOP CENTRAL STATION CHANGE HERE"] * 6)
    board = sign(text, size=40, margin=14).convert("RGB")
    crop = np.asarray(board)[8:-8]
    prepared = real_model[0].recognizer.prepare(crop)

    (reading,) = real_model[0].recognizer.read([crop])

    assert len(prepared.pieces) > 1
    assert reading.text == text


@pytest.mark.weights
def test_words_lie_where_they_were_written(real_model: Real) -> None:
    params = OcrParams()
    board = np.asarray(sign("HELLO 42", size=60).convert("RGB"))
    (raw,) = real_model[0].infer([real_model[0].preprocess(board, params)])

    (line,) = real_model[0].postprocess(raw, params).lines

    assert [word.text for word in line.words] == ["HELLO", "42"]
    ink = np.flatnonzero((board < 128).any(axis=(0, 2))) / board.shape[1]
    gap = ink[:-1][np.diff(ink).argmax()], ink[1:][np.diff(ink).argmax()]
    near = 0.25 * board.shape[0] / board.shape[1]
    assert line.words[0].quad[:, 0].max() == pytest.approx(gap[0], abs=near)
    assert line.words[1].quad[:, 0].min() == pytest.approx(gap[1], abs=near)


@pytest.mark.weights
def test_the_real_description_names_every_licence(real_model: Real) -> None:
    description = real_model[1].description

    assert description.model.name == "ppocrv6-small"
    assert description.vocabulary_size == 18709
    assert {info.artifact: info.licence for info in description.weights} == dict.fromkeys(
        (DETECTOR, RECOGNIZER, CLASSIFIER), "Apache-2.0"
    )
