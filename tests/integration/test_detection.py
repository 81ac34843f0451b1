"""The detection service over real gRPC in this process; with the real model where its weights are cached."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from polysight.common.v1 import image_pb2, model_pb2
from polysight.vision.v1 import detection_pb2, detection_pb2_grpc
from services.detection.backend import Weights, describe
from services.detection.closed_search import ClosedSearch
from services.detection.export import ARTIFACT, export
from services.detection.model import DetectionParams, Detector
from services.detection.service import FULL_NAME, DetectionServicer
from serving.channel import open_channel
from serving.coco import COCO_80
from serving.engine import Engine, FakeEngine, OnnxRuntimeEngine, TensorSpec
from serving.errors import error_info, status_from_rpc_error
from serving.expert import Stages
from serving.grpc_server import Server, Servicer
from serving.settings import ServerSettings
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore

DEFAULTS = DetectionParams(score_threshold=0.25, max_detections=300)


@contextlib.asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[detection_pb2_grpc.DetectionServiceAsyncStub]:
    """A warmed-up service on `engine`, and a stub that calls it."""
    model, metrics = Detector(engine), Metrics("detection")
    stages = Stages(model.infer, metrics=metrics, max_batch=engine.max_batch, max_queue=64)
    info = WeightStore().licence(ARTIFACT)
    description = describe(engine, model, DEFAULTS, Weights(info.name, info.sha256, info.licence))
    search = ClosedSearch(model.labels, DEFAULTS)
    servicer = DetectionServicer(model, stages, search, description=description)
    added = Servicer(
        FULL_NAME, lambda server: detection_pb2_grpc.add_DetectionServiceServicer_to_server(servicer, server)
    )
    async with Server(settings=ServerSettings(port=0), servicers=[added], metrics=metrics) as server:
        await server.ready()
        async with open_channel(server.address) as channel:
            yield detection_pb2_grpc.DetectionServiceStub(channel)
        await stages.close()


def brightness_engine(max_batch: int = 4) -> FakeEngine:
    """Sees one object over the whole picture, whose class is the picture's mean grey level (0-79)."""

    def compute(inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        images = inputs["images"]
        batch, _, height, width = images.shape
        output = np.zeros((batch, 84, 10), np.float32)
        output[:, :4, 0] = [width / 2, height / 2, width, height]
        level = np.rint(images[:, :, height // 2, width // 2].mean(axis=1) * 255).astype(int)
        output[np.arange(batch), 4 + np.minimum(level, 79), 0] = 0.9
        return {"output0": output}

    return FakeEngine(
        [TensorSpec("images", ("batch", 3, "height", "width"), "float32")],
        [TensorSpec("output0", ("batch", 84, "anchors"), "float32")],
        compute,
        max_batch=max_batch,
    )


def picture(level: int, width: int = 64, height: int = 48) -> image_pb2.Image:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (level, level, level)).save(buffer, "PNG")
    return image_pb2.Image(data=buffer.getvalue())


async def test_a_reply_says_what_where_and_how_long() -> None:
    async with serving(brightness_engine()) as stub:
        reply = await stub.Detect(detection_pb2.DetectRequest(image=picture(COCO_80.index("bus"))))
    (detection,) = reply.detections
    assert (detection.label, detection.label_id) == ("bus", 5)
    assert detection.score == pytest.approx(0.9)
    box = detection.box
    assert [box.x_min, box.y_min, box.x_max, box.y_max] == pytest.approx([0, 0, 1, 1])
    assert not detection.HasField("vocabulary_index")
    assert not reply.vocabulary
    assert (reply.image_width, reply.image_height) == (64, 48)
    assert reply.timings.batch_size == 1
    assert reply.timings.inference.ToNanoseconds() > 0
    assert reply.timings.preprocess.ToNanoseconds() > 0
    assert (reply.model.name, reply.model.engine) == ("yolo26n", "fake")
    assert reply.profile == model_pb2.PROFILE_SERVING
    assert not detection.HasField("objectness")


async def test_describe_names_model_labels_and_licence() -> None:
    async with serving(brightness_engine()) as stub:
        answer = await stub.Describe(detection_pb2.DetectionServiceDescribeRequest())
    description = answer.description
    assert tuple(description.labels) == COCO_80
    assert description.vocabulary_size == 80
    assert not description.open_vocabulary
    assert (description.input_width, description.input_height) == (640, 640)
    assert dict(description.thresholds) == pytest.approx({"score_threshold": 0.25, "iou_threshold": 0.7})
    assert not answer.class_agnostic
    assert not answer.image_queries
    assert not answer.HasField("own_vocabulary")
    assert list(answer.profiles) == [model_pb2.PROFILE_SERVING]
    assert description.max_batch_size == 4
    (weights,) = description.weights
    assert (weights.artifact, weights.licence) == ("yolo26n", "AGPL-3.0-only")
    assert description.model == model_pb2.ModelRef(
        name="yolo26n", version=f"{weights.sha256[:12]}-r1", engine="fake"
    )


async def test_thresholds_are_set_per_request() -> None:
    async with serving(brightness_engine()) as stub:
        reply = await stub.Detect(detection_pb2.DetectRequest(image=picture(5), score_threshold=0.95))
        assert not reply.detections
        reply = await stub.Detect(
            detection_pb2.DetectRequest(image=picture(5), score_threshold=0, max_detections=1)
        )
        assert len(reply.detections) == 1


async def test_a_profile_of_published_systems_is_answered_as_what_it_is() -> None:
    async with serving(brightness_engine()) as stub:
        reply = await stub.Detect(
            detection_pb2.DetectRequest(image=picture(5), profile=model_pb2.PROFILE_REFERENCE)
        )
    assert reply.profile == model_pb2.PROFILE_SERVING


async def test_a_vocabulary_is_mapped_and_what_cannot_be_seen_is_said() -> None:
    words = ["helmet", "vehicles", "The Bus", "people"]
    async with serving(brightness_engine()) as stub:
        bus = await stub.Detect(detection_pb2.DetectRequest(image=picture(5), vocabulary=words))
        train = await stub.Detect(detection_pb2.DetectRequest(image=picture(6), vocabulary=words))
        cat = await stub.Detect(detection_pb2.DetectRequest(image=picture(15), vocabulary=words))
    assert [(d.label, d.vocabulary_index) for d in bus.detections] == [("bus", 2)]
    assert [(d.label, d.vocabulary_index) for d in train.detections] == [("train", 1)]
    assert not cat.detections
    assert [term.term for term in cat.vocabulary] == words
    assert [term.visible for term in cat.vocabulary] == [False, True, True, True]
    assert [list(term.labels) for term in cat.vocabulary][0::2] == [[], ["bus"]]


async def test_concurrent_callers_each_get_their_own_answer_from_shared_batches() -> None:
    engine = brightness_engine(max_batch=4)
    requests = [picture(level, *((64, 48) if level % 2 else (48, 64))) for level in range(24)]
    async with serving(engine) as stub:
        replies = await asyncio.gather(
            *(stub.Detect(detection_pb2.DetectRequest(image=image)) for image in requests)
        )
    assert [reply.detections[0].label_id for reply in replies] == list(range(24))
    assert [reply.image_width for reply in replies] == [64 if level % 2 else 48 for level in range(24)]
    assert max(reply.timings.batch_size for reply in replies) > 1


@pytest.mark.parametrize(
    ("request_message", "reason"),
    [
        (detection_pb2.DetectRequest(), "INVALID_FIELD"),
        (detection_pb2.DetectRequest(image=image_pb2.Image()), "IMAGE_EMPTY"),
        (detection_pb2.DetectRequest(image=image_pb2.Image(data=b"no picture")), "IMAGE_UNSUPPORTED_FORMAT"),
        (detection_pb2.DetectRequest(image=picture(1), score_threshold=1.5), "INVALID_FIELD"),
        (detection_pb2.DetectRequest(image=picture(1), max_detections=0), "INVALID_FIELD"),
        (detection_pb2.DetectRequest(image=picture(1), vocabulary=[""]), "INVALID_FIELD"),
        (detection_pb2.DetectRequest(image=picture(1), max_detections=4097), "INVALID_FIELD"),
        (detection_pb2.DetectRequest(image=picture(1), iou_threshold=-0.1), "INVALID_FIELD"),
        (detection_pb2.DetectRequest(image=picture(1), class_agnostic=True), "UNSUPPORTED_OPTION"),
        (
            detection_pb2.DetectRequest(
                image=picture(1), image_queries=[detection_pb2.ImageQuery(image=picture(2))]
            ),
            "UNSUPPORTED_OPTION",
        ),
    ],
)
async def test_bad_requests_are_refused_with_a_reason(
    request_message: detection_pb2.DetectRequest, reason: str
) -> None:
    async with serving(brightness_engine()) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            await stub.Detect(request_message)
    status = status_from_rpc_error(caught.value)
    info = error_info(status)
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert info is not None
    assert info.reason == reason


@pytest.mark.weights
async def test_the_real_model_sees_the_bus_and_the_four_people(bus_jpg: Path) -> None:
    engine = OnnxRuntimeEngine(export(WeightStore()), threads=1)
    image = image_pb2.Image(data=await asyncio.to_thread(bus_jpg.read_bytes))
    async with serving(engine) as stub:
        reply = await stub.Detect(detection_pb2.DetectRequest(image=image, score_threshold=0.5))
        asked = await stub.Detect(detection_pb2.DetectRequest(image=image, vocabulary=["vehicle", "helmet"]))
    assert sorted(detection.label for detection in reply.detections) == ["bus"] + ["person"] * 4
    (bus,) = (detection.box for detection in reply.detections if detection.label == "bus")
    assert [bus.x_min, bus.y_min, bus.x_max, bus.y_max] == pytest.approx([0.0, 0.21, 0.99, 0.69], abs=0.03)
    assert [detection.label for detection in asked.detections] == ["bus"]
    assert [term.visible for term in asked.vocabulary] == [True, False]


@pytest.mark.weights
def test_the_real_graph_takes_every_batch_and_shape(bus_jpg: Path) -> None:
    """What a picture contains does not depend on the company it keeps in a batch."""
    engine = OnnxRuntimeEngine(export(WeightStore()), threads=1, max_batch=8)
    model = Detector(engine)
    tall = np.asarray(Image.open(bus_jpg).convert("RGB"))
    wide = np.ascontiguousarray(tall[:480])
    alone = {id(image): model.infer([model.preprocess(image, DEFAULTS)])[0] for image in (tall, wide)}
    for size in range(1, 9):
        images = [tall if index % 3 else wide for index in range(size)]
        batch = model.infer([model.preprocess(image, DEFAULTS) for image in images])
        for image, raw in zip(images, batch, strict=True):
            np.testing.assert_allclose(raw.output, alone[id(image)].output, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("service", ["detection", "panoptic"])
def test_a_process_without_weights_says_what_to_do_and_ends(tmp_path: Path, service: str) -> None:
    environment = {"POLYSIGHT_OFFLINE": "1", "POLYSIGHT_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "polysight weights fetch yolo26n" in done.stderr
    assert "Traceback" not in done.stderr
