"""The scene-graph service in process: a real gRPC server and client around a fake device."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from PIL import Image

from polysight.common.v1 import geometry_pb2, image_pb2, model_pb2
from polysight.vision.v1 import scene_graph_pb2, scene_graph_pb2_grpc
from services.scene_graph.model import SceneGraphModel, SceneGraphParams
from services.scene_graph.predicates import PREDICATES
from services.scene_graph.service import FULL_NAME, SceneGraphExpert, SceneGraphService, describe
from services.scene_graph.settings import SceneGraphSettings
from serving.channel import open_channel
from serving.coco import COCO_80
from serving.engine import FakeEngine, Tensor, TensorSpec
from serving.errors import error_info, status_from_rpc_error
from serving.expert import Stages
from serving.grpc_server import Server
from serving.masks import Rle, decode_png, decode_rle
from serving.server import Servicer
from serving.telemetry.metrics import Metrics

INPUT = TensorSpec("images", ("batch", 3, "height", "width"), "float32")
OUTPUTS = (
    TensorSpec("output0", ("batch", 116, "anchors"), "float32"),
    TensorSpec("output1", ("batch", 32, "mask_height", "mask_width"), "float32"),
)
BUS, PERSON = COCO_80.index("bus"), COCO_80.index("person")
BOXES = {0: (80, 80, 560, 320), 1: (240, 120, 320, 400)}  # bus and person, in the pixels of the picture
SCORES = {0: 0.9, 1: 0.6}
GREEN_IS_PERSON = 200


def see(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the fake device sees in a plain picture: red tells the class of the large object (red / 3), much
    green adds a person before it.
    """
    images = inputs["images"]
    batch, _, height, width = images.shape
    predictions = np.zeros((batch, 116, 2), np.float32)
    prototypes = np.full((batch, 32, height // 4, width // 4), -9, np.float32)
    for row, image in enumerate(images):
        red, green, _ = np.rint(image[:, height // 2, width // 2] * 255).astype(int)
        labels = {0: min(red // 3, 79)} | ({1: PERSON} if green >= GREEN_IS_PERSON else {})
        for index, label in labels.items():
            x0, y0, x1, y1 = BOXES[index]
            predictions[row, :4, index] = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
            predictions[row, 4 + label, index] = SCORES[index]
            predictions[row, 84 + index, index] = 1
            prototypes[row, :, y0 // 4 : y1 // 4, x0 // 4 : x1 // 4] = -9
            prototypes[row, index, y0 // 4 : y1 // 4, x0 // 4 : x1 // 4] = 9
    return {"output0": predictions, "output1": prototypes}


def picture(label: int, *, person: bool = False) -> bytes:
    """A plain 640x480 PNG in which the fake device sees `label`."""
    colour = (label * 3 + 1, GREEN_IS_PERSON if person else 0, 0)
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480), colour).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Mesh:
    """A running service and a stub to it."""

    stub: scene_graph_pb2_grpc.SceneGraphServiceAsyncStub
    engine: FakeEngine

    async def ask(self, image: bytes, **fields: object) -> scene_graph_pb2.GenerateSceneGraphResponse:
        request = scene_graph_pb2.GenerateSceneGraphRequest(
            image=image_pb2.Image(data=image),
            **fields,  # type: ignore[arg-type]
        )
        return await self.stub.GenerateSceneGraph(request, timeout=20)


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    engine = FakeEngine([INPUT], OUTPUTS, see, max_batch=4)
    model, metrics, defaults = SceneGraphModel(engine), Metrics("scene_graph"), SceneGraphParams()
    stages = Stages(model.infer, metrics=metrics, max_batch=4, max_queue=64)
    description = describe(
        model=model_pb2.ModelRef(name="geometric", version="test", engine=engine.name),
        defaults=defaults,
        max_batch=engine.max_batch,
        weights=[model_pb2.WeightsInfo(artifact="yolo26n-seg", sha256="0" * 64, licence="AGPL-3.0-only")],
    )
    expert: asyncio.Future[SceneGraphExpert] = asyncio.get_running_loop().create_future()
    expert.set_result(SceneGraphExpert(model, stages, defaults, description))
    service = SceneGraphService(expert)

    def add(server: grpc.aio.Server) -> None:
        scene_graph_pb2_grpc.add_SceneGraphServiceServicer_to_server(service, server)

    settings = SceneGraphSettings(port=0)
    async with Server(settings=settings, servicers=[Servicer(FULL_NAME, add)], metrics=metrics) as server:
        await server.ready()
        async with open_channel(server.address) as channel:
            yield Mesh(scene_graph_pb2_grpc.SceneGraphServiceStub(channel), engine)
    await stages.close()


async def reason_of(call: object) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        await call  # type: ignore[misc]
    info = error_info(status_from_rpc_error(caught.value))
    assert info is not None
    return str(info.reason)


async def test_objects_relations_timings(mesh: Mesh) -> None:
    reply = await mesh.ask(picture(BUS, person=True))
    assert [(o.label_id, o.label) for o in reply.objects] == [(BUS, "bus"), (PERSON, "person")]
    assert reply.objects[1].score == pytest.approx(0.6)
    box = reply.objects[1].box
    assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx((0.375, 0.25, 0.5, 400 / 480))
    (relation,) = reply.relations
    assert (relation.subject_index, relation.predicate, relation.object_index) == (1, "in front of", 0)
    assert PREDICATES[relation.predicate_id] == relation.predicate
    assert (reply.image_width, reply.image_height) == (640, 480)
    assert reply.model.name == "geometric"
    timings = reply.timings
    assert timings.batch_size == 1
    for stage in (timings.preprocess, timings.inference, timings.postprocess):
        assert stage.ToNanoseconds() > 0


async def test_masks_come_in_the_encoding_that_was_asked_for(mesh: Mesh) -> None:
    image = picture(BUS, person=True)
    by_default = (await mesh.ask(image)).objects
    as_rle = (await mesh.ask(image, mask_encoding=geometry_pb2.MASK_ENCODING_COCO_RLE)).objects
    as_png = (await mesh.ask(image, mask_encoding=geometry_pb2.MASK_ENCODING_PNG)).objects
    without = (await mesh.ask(image, mask_encoding=geometry_pb2.MASK_ENCODING_NONE)).objects
    assert by_default == as_rle
    for rle_object, png_object in zip(as_rle, as_png, strict=True):
        rle = rle_object.mask.coco_rle
        mask = decode_rle(Rle(rle.height, rle.width, rle.counts))
        assert mask.shape == (480, 640)
        np.testing.assert_array_equal(decode_png(png_object.mask.png), mask)
    person = as_rle[1].mask.coco_rle
    assert decode_rle(Rle(person.height, person.width, person.counts))[130:390, 250:310].all()
    assert not any(one.HasField("mask") for one in without)


async def test_thresholds_are_the_requests(mesh: Mesh) -> None:
    image = picture(BUS, person=True)
    assert [o.label for o in (await mesh.ask(image, object_threshold=0.7)).objects] == ["bus"]
    unrelated = await mesh.ask(image, relation_threshold=0.95)
    assert len(unrelated.objects) == 2
    assert not unrelated.relations
    assert len((await mesh.ask(image, max_relations=1)).relations) == 1
    assert len((await mesh.ask(image)).objects) == 2, "one request's thresholds stuck to the next"


async def test_concurrent_callers_get_their_own_results_and_share_batches(mesh: Mesh) -> None:
    labels = list(range(80))[::2]
    replies = await asyncio.gather(*(mesh.ask(picture(label)) for label in labels))
    assert [[o.label_id for o in reply.objects] for reply in replies] == [[label] for label in labels]
    assert max(reply.timings.batch_size for reply in replies) <= 4
    assert sum(mesh.engine.batches) == len(labels)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"not an image", "IMAGE_UNSUPPORTED_FORMAT"),
        (picture(BUS)[:60], "IMAGE_CORRUPT"),
        (b"", "IMAGE_EMPTY"),
    ],
    ids=["text", "truncated", "empty"],
)
async def test_bad_images_have_typed_errors(mesh: Mesh, image: bytes, reason: str) -> None:
    assert await reason_of(mesh.ask(image)) == reason
    assert mesh.engine.batches == []


async def test_rules_of_the_contract_are_held(mesh: Mesh) -> None:
    assert await reason_of(mesh.ask(picture(BUS), object_threshold=1.5)) == "INVALID_FIELD"
    assert await reason_of(mesh.ask(picture(BUS), max_relations=101)) == "INVALID_FIELD"
    request = scene_graph_pb2.GenerateSceneGraphRequest()
    assert await reason_of(mesh.stub.GenerateSceneGraph(request, timeout=20)) == "INVALID_FIELD"


async def test_describe(mesh: Mesh) -> None:
    request = scene_graph_pb2.SceneGraphServiceDescribeRequest()
    card = (await mesh.stub.Describe(request, timeout=20)).description
    assert tuple(card.labels) == PREDICATES
    assert card.vocabulary_size == 56
    assert card.model.name == "geometric"
    assert card.weights[0].licence == "AGPL-3.0-only"
    assert card.max_batch_size == 4
    assert card.thresholds["object_threshold"] == pytest.approx(0.4)
    assert (card.input_width, card.input_height) == (640, 640)
