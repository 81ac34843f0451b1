"""The panoptic service with EoMT's graph, over real gRPC: the real architecture, tiny, with random weights."""

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
from services.panoptic.eomt.export import main
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


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("graph") / "eomt-tiny.onnx"
    assert main(["random:tiny", str(out)]) == 0
    return out


@contextlib.asynccontextmanager
async def serving(graph: Path) -> AsyncIterator[panoptic_pb2_grpc.PanopticServiceAsyncStub]:
    settings = PanopticSettings(backend="eomt", model_path=graph, model_licence="MIT", threads=1)
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


def request(**fields: Any) -> panoptic_pb2.SegmentRequest:
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return panoptic_pb2.SegmentRequest(
        image=image_pb2.Image(data=buffer.getvalue()),
        grids=[panoptic_pb2.GridSize(height=35, width=35)],
        mask_encoding=geometry_pb2.MASK_ENCODING_NONE,
        **fields,
    )


async def test_a_picture_is_divided_and_described(graph: Path) -> None:
    async with serving(graph) as stub:
        reply = await stub.Segment(request(score_threshold=0.05, overlap_threshold=0.05))
        description = (await stub.Describe(panoptic_pb2.PanopticServiceDescribeRequest())).description
    assert reply.profile == model_pb2.PROFILE_SERVING
    assert (reply.image_width, reply.image_height, reply.timings.batch_size) == (WIDTH, HEIGHT, 1)
    assert sum(part.area for part in reply.segments) == pytest.approx(1, abs=1e-5)
    assert any(part.label_id < 133 for part in reply.segments)
    assert len(reply.grids[0].segment_ids) == 35 * 35 * 2
    assert (description.model.name, description.vocabulary_size) == ("eomt-tiny", 133)
    assert (description.input_width, description.input_height) == (64, 64)
    assert description.thresholds["score_threshold"] == pytest.approx(0.8)
    assert description.weights[0].licence == "MIT"


async def test_asked_for_the_reference_it_serves_and_says_so(graph: Path) -> None:
    async with serving(graph) as stub:
        reply = await stub.Segment(request(profile=model_pb2.PROFILE_REFERENCE))
    assert reply.profile == model_pb2.PROFILE_SERVING
