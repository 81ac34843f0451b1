"""The panoptic service over real gRPC in this process; with the real model where its weights are cached."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from polysight.common.v1 import geometry_pb2, image_pb2
from polysight.vision.v1 import panoptic_pb2, panoptic_pb2_grpc
from services.panoptic.backend import Weights, describe
from services.panoptic.export import ARTIFACT, export
from services.panoptic.model import PanopticModel, PanopticParams
from services.panoptic.service import FULL_NAME, PanopticServicer
from serving.channel import open_channel
from serving.coco import COCO_80, UNLABELLED_ID
from serving.engine import Engine, FakeEngine, OnnxRuntimeEngine, TensorSpec
from serving.errors import error_info, status_from_rpc_error
from serving.expert import Stages
from serving.grpc_server import Server, Servicer
from serving.masks import Rle, decode_png, decode_rle
from serving.settings import ServerSettings
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore

DEFAULTS = PanopticParams(score_threshold=0.25, mask_threshold=0.5, overlap_threshold=0.5, max_segments=100)
Grid = panoptic_pb2.GridSize


@contextlib.asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[panoptic_pb2_grpc.PanopticServiceAsyncStub]:
    """A warmed-up service on `engine`, and a stub that calls it."""
    model, metrics = PanopticModel(engine), Metrics("panoptic")
    stages = Stages(model.infer, metrics=metrics, max_batch=engine.max_batch, max_queue=64)
    info = WeightStore().licence(ARTIFACT)
    description = describe(engine, model, DEFAULTS, Weights(info.name, info.sha256, info.licence))
    servicer = PanopticServicer(model, stages, description=description, defaults=DEFAULTS)
    added = Servicer(
        FULL_NAME, lambda server: panoptic_pb2_grpc.add_PanopticServiceServicer_to_server(servicer, server)
    )
    async with Server(settings=ServerSettings(port=0), servicers=[added], metrics=metrics) as server:
        await server.ready()
        async with open_channel(server.address) as channel:
            yield panoptic_pb2_grpc.PanopticServiceStub(channel)
        await stages.close()


def left_half_engine() -> FakeEngine:
    """One object over the left half of every picture, whose class is the grey level of its middle (0-79)."""

    def compute(inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        images = inputs["images"]
        batch, _, height, width = images.shape
        level = np.rint(images[:, :, height // 2, width // 2].mean(axis=1) * 255).astype(int)
        output = np.zeros((batch, 116, 3), np.float32)
        output[:, :4, 0] = [width / 4, height / 2, width / 2, height]
        output[np.arange(batch), 4 + np.minimum(level, 79), 0] = 0.9
        output[:, 84, 0] = 1
        return {"output0": output, "output1": np.ones((batch, 32, height // 4, width // 4), np.float32)}

    return FakeEngine(
        [TensorSpec("images", ("batch", 3, "height", "width"), "float32")],
        [
            TensorSpec("output0", ("batch", 116, "anchors"), "float32"),
            TensorSpec("output1", ("batch", 32, "mask_height", "mask_width"), "float32"),
        ],
        compute,
        max_batch=4,
    )


def picture(level: int, width: int = 64, height: int = 48) -> image_pb2.Image:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (level, level, level)).save(buffer, "PNG")
    return image_pb2.Image(data=buffer.getvalue())


def pixels(mask: geometry_pb2.Mask) -> NDArray[np.bool_]:
    if mask.WhichOneof("encoding") == "png":
        return decode_png(mask.png)
    return decode_rle(Rle(mask.coco_rle.height, mask.coco_rle.width, mask.coco_rle.counts))


def grid_of(grid: panoptic_pb2.PanopticGrid) -> NDArray[np.uint16]:
    return np.frombuffer(grid.segment_ids, "<u2").reshape(grid.height, grid.width)


async def test_a_reply_partitions_the_picture() -> None:
    request = panoptic_pb2.SegmentRequest(
        image=picture(5), grids=[Grid(height=3, width=4), Grid(height=1, width=1)]
    )
    async with serving(left_half_engine()) as stub:
        reply = await stub.Segment(request)
    bus, unlabelled = reply.segments
    assert (bus.id, bus.label_id, bus.label, bus.is_thing) == (1, 5, "bus", True)
    assert bus.score == pytest.approx(0.9)
    assert (unlabelled.id, unlabelled.label_id, unlabelled.label) == (2, UNLABELLED_ID, "unlabelled")
    assert (unlabelled.is_thing, unlabelled.score) == (False, 0)
    assert [bus.area, unlabelled.area] == [0.5, 0.5]
    assert [bus.box.x_min, bus.box.y_min, bus.box.x_max, bus.box.y_max] == [0, 0, 0.5, 1]
    left = np.zeros((48, 64), np.bool_)
    left[:, :32] = True
    np.testing.assert_array_equal(pixels(bus.mask), left)
    np.testing.assert_array_equal(pixels(unlabelled.mask), ~left)
    assert [grid_of(grid).tolist() for grid in reply.grids] == [[[1, 1, 0, 0]] * 3, [[1]]]
    assert (reply.image_width, reply.image_height) == (64, 48)
    assert reply.timings.batch_size == 1
    assert not reply.instances


@pytest.mark.parametrize(
    ("encoding", "kind"),
    [
        (geometry_pb2.MASK_ENCODING_UNSPECIFIED, "coco_rle"),
        (geometry_pb2.MASK_ENCODING_COCO_RLE, "coco_rle"),
        (geometry_pb2.MASK_ENCODING_PNG, "png"),
        (geometry_pb2.MASK_ENCODING_NONE, None),
    ],
)
async def test_masks_are_written_as_asked(encoding: geometry_pb2.MaskEncoding, kind: str | None) -> None:
    request = panoptic_pb2.SegmentRequest(image=picture(5), mask_encoding=encoding, include_instances=True)
    async with serving(left_half_engine()) as stub:
        reply = await stub.Segment(request)
    (instance,) = reply.instances
    written = [segment.mask for segment in reply.segments] + [instance.mask]
    assert [mask.WhichOneof("encoding") for mask in written] == [kind] * 3
    if kind is not None:
        assert pixels(instance.mask).sum() == 48 * 32
        np.testing.assert_array_equal(pixels(reply.segments[0].mask), pixels(instance.mask))


async def test_describe_names_model_labels_and_licence() -> None:
    async with serving(left_half_engine()) as stub:
        answer = await stub.Describe(panoptic_pb2.PanopticServiceDescribeRequest())
    description = answer.description
    assert tuple(description.labels) == COCO_80
    assert dict(description.thresholds) == {
        "score_threshold": 0.25,
        "mask_threshold": 0.5,
        "overlap_threshold": 0.5,
    }
    assert description.model.name == "yolo26n-seg"
    assert [(weights.artifact, weights.licence) for weights in description.weights] == [
        ("yolo26n-seg", "AGPL-3.0-only")
    ]


async def test_concurrent_callers_each_get_their_own_answer() -> None:
    requests = [
        panoptic_pb2.SegmentRequest(image=picture(level, 40 + level, 48), grids=[Grid(height=2, width=2)])
        for level in range(20)
    ]
    async with serving(left_half_engine()) as stub:
        replies = await asyncio.gather(*(stub.Segment(request) for request in requests))
    assert [reply.segments[0].label_id for reply in replies] == list(range(20))
    assert [reply.image_width for reply in replies] == [40 + level for level in range(20)]


@pytest.mark.parametrize(
    ("request_message", "reason"),
    [
        (panoptic_pb2.SegmentRequest(), "INVALID_FIELD"),
        (panoptic_pb2.SegmentRequest(image=image_pb2.Image(data=b"no picture")), "IMAGE_UNSUPPORTED_FORMAT"),
        (panoptic_pb2.SegmentRequest(image=picture(1), mask_threshold=-0.1), "INVALID_FIELD"),
        (panoptic_pb2.SegmentRequest(image=picture(1), grids=[Grid(height=0, width=5)]), "INVALID_FIELD"),
        (panoptic_pb2.SegmentRequest(image=picture(1), grids=[Grid(height=5, width=5)] * 5), "INVALID_FIELD"),
    ],
)
async def test_bad_requests_are_refused_with_a_reason(
    request_message: panoptic_pb2.SegmentRequest, reason: str
) -> None:
    async with serving(left_half_engine()) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            await stub.Segment(request_message)
    info = error_info(status_from_rpc_error(caught.value))
    assert info is not None
    assert info.reason == reason


@pytest.mark.weights
async def test_the_real_model_partitions_the_bus_and_the_people(bus_jpg: Path) -> None:
    engine = OnnxRuntimeEngine(export(WeightStore()), threads=1)
    image = image_pb2.Image(data=await asyncio.to_thread(bus_jpg.read_bytes))
    request = panoptic_pb2.SegmentRequest(image=image, score_threshold=0.5, grids=[Grid(height=35, width=35)])
    async with serving(engine) as stub:
        reply = await stub.Segment(request)
    assert sorted(segment.label for segment in reply.segments) == ["bus"] + ["person"] * 4 + ["unlabelled"]
    masks = np.array([pixels(segment.mask) for segment in reply.segments])
    np.testing.assert_array_equal(masks.sum(axis=0), 1)
    for segment, mask in zip(reply.segments, masks, strict=True):
        assert segment.area == pytest.approx(mask.mean())
    by_id = {segment.id: mask for segment, mask in zip(reply.segments, masks, strict=True)}
    (grid,) = (grid_of(grid) for grid in reply.grids)
    for segment in reply.segments[:-1]:
        share = (grid == segment.id).mean()
        assert share == pytest.approx(by_id[segment.id].mean(), abs=0.02)
