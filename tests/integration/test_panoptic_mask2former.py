"""The panoptic service with Mask2Former's graph, over real gRPC: the real architecture, tiny, with random weights."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polysight.common.v1 import geometry_pb2, image_pb2, model_pb2
from polysight.vision.v1 import panoptic_pb2, panoptic_pb2_grpc
from services.panoptic.backend import open_backend
from services.panoptic.export import main
from services.panoptic.service import FULL_NAME, PanopticServicer
from services.panoptic.settings import PanopticSettings
from serving.channel import open_channel
from serving.expert import Stages
from serving.grpc_server import Server, Servicer
from serving.settings import ServerSettings
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore

pytest.importorskip("torch")
pytest.importorskip("transformers")

WIDTH, HEIGHT = 96, 64
GRIDS = [panoptic_pb2.GridSize(height=35, width=35), panoptic_pb2.GridSize(height=490, width=490)]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("graph") / "mask2former-tiny.onnx"
    assert main(["mask2former", "random:tiny", str(out)]) == 0
    return out


@contextlib.asynccontextmanager
async def serving(graph: Path) -> AsyncIterator[panoptic_pb2_grpc.PanopticServiceAsyncStub]:
    settings = PanopticSettings(
        backend="mask2former", model_path=graph, model_licence="MIT", threads=1, score_threshold=0.05
    )
    backend, metrics = open_backend(settings, WeightStore(graph.parent)), Metrics("panoptic")
    stages = Stages(backend.model.infer, metrics=metrics, max_batch=backend.engine.max_batch, max_queue=64)
    servicer = PanopticServicer(
        backend.model,
        stages,
        description=backend.description,
        defaults=backend.defaults,
        reference_defaults=backend.reference_defaults,
    )
    added = Servicer(
        FULL_NAME, lambda server: panoptic_pb2_grpc.add_PanopticServiceServicer_to_server(servicer, server)
    )
    async with Server(settings=ServerSettings(port=0), servicers=[added], metrics=metrics) as server:
        await server.ready()
        async with open_channel(server.address) as channel:
            yield panoptic_pb2_grpc.PanopticServiceStub(channel)
        await stages.close()
    backend.engine.close()


def request(profile: model_pb2.Profile, **fields: Any) -> panoptic_pb2.SegmentRequest:
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return panoptic_pb2.SegmentRequest(
        image=image_pb2.Image(data=buffer.getvalue()),
        grids=GRIDS,
        mask_encoding=geometry_pb2.MASK_ENCODING_NONE,
        profile=profile,
        **fields,
    )


async def test_both_grids_and_the_partition_come_from_one_inference(graph: Path) -> None:
    async with serving(graph) as stub:
        reply = await stub.Segment(request(model_pb2.PROFILE_UNSPECIFIED, mask_threshold=0.05))
        description = (await stub.Describe(panoptic_pb2.PanopticServiceDescribeRequest())).description
    assert reply.profile == model_pb2.PROFILE_SERVING
    assert (reply.image_width, reply.image_height, reply.timings.batch_size) == (WIDTH, HEIGHT, 1)
    assert sum(part.area for part in reply.segments) == pytest.approx(1, abs=1e-5)
    assert any(part.label_id < 133 for part in reply.segments)
    assert [(grid.height, grid.width, len(grid.segment_ids)) for grid in reply.grids] == [
        (35, 35, 35 * 35 * 2),
        (490, 490, 490 * 490 * 2),
    ]
    assert (description.model.name, description.vocabulary_size) == ("mask2former-tiny", 133)
    assert (description.input_width, description.input_height) == (64, 64)
    assert description.thresholds["overlap_threshold"] == pytest.approx(0.8)
    assert description.weights[0].licence == "MIT"


async def test_the_reference_profile_sets_its_thresholds_and_says_so(graph: Path) -> None:
    async with serving(graph) as stub:
        sure = await stub.Segment(request(model_pb2.PROFILE_REFERENCE))
        lenient = await stub.Segment(
            request(
                model_pb2.PROFILE_REFERENCE, score_threshold=0.05, mask_threshold=0.05, overlap_threshold=0
            )
        )
    assert sure.profile == lenient.profile == model_pb2.PROFILE_REFERENCE
    # Random weights are sure of nothing: no score reaches 0.95, so no pixel of a weighted mask does.
    assert [(part.label, part.area) for part in sure.segments] == [("unlabelled", 1.0)]
    assert len(lenient.segments) > 1
