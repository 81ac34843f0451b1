"""The scene-graph service with PSGTR's graph over real gRPC: the real architecture, tiny, with random weights.

The graph comes from a checkpoint with OpenPSG's names, so that every step from the published file to a reply is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from polysight.common.v1 import geometry_pb2, image_pb2, model_pb2
from polysight.vision.v1 import scene_graph_pb2, scene_graph_pb2_grpc
from services.scene_graph.backend import Backend, fused_cost, fused_group, open_backend
from services.scene_graph.export import main
from services.scene_graph.fusion import FusedModel, FusedParams
from services.scene_graph.model import SceneGraphModel, SceneGraphParams
from services.scene_graph.service import FULL_NAME, SceneGraphExpert, SceneGraphService
from services.scene_graph.settings import SceneGraphSettings
from serving.channel import open_channel
from serving.coco import COCO_80, COCO_PANOPTIC
from serving.engine import FakeEngine, TensorSpec
from serving.grpc_server import Server, Servicer
from serving.masks import Rle, decode_rle
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

WIDTH, HEIGHT = 150, 96
LENIENT: dict[str, Any] = {"object_threshold": 0.05, "relation_threshold": 0.05}
"""Random weights are sure of little."""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from services.scene_graph.psgtr.checkpoint import names_for
    from services.scene_graph.psgtr.network import random_network, tiny_config

    folder = tmp_path_factory.mktemp("graph")
    ours = random_network(tiny_config(), seed=2).state_dict()
    parts: dict[str, dict[int, Any]] = {}
    for name, source in names_for(ours).items():
        parts.setdefault(source.name, {})[source.third or 0] = ours[name]
    state = {name: torch.cat([rows[third] for third in sorted(rows)]) for name, rows in parts.items()}
    torch.save({"meta": {"epoch": 60}, "state_dict": state}, folder / "psgtr_tiny.pth")
    assert main(["psgtr", str(folder / "psgtr_tiny.pth"), str(folder / "psgtr_tiny.onnx")]) == 0
    return folder / "psgtr_tiny.onnx"


@contextlib.asynccontextmanager
async def serving(backend: Backend) -> AsyncIterator[scene_graph_pb2_grpc.SceneGraphServiceAsyncStub]:
    metrics = Metrics("scene_graph")
    settings = SceneGraphSettings(port=0)
    stages = backend.stages(settings, metrics)
    expert: asyncio.Future[SceneGraphExpert] = asyncio.get_running_loop().create_future()
    expert.set_result(
        SceneGraphExpert(
            backend.model, stages, backend.defaults, backend.description, backend.reference_defaults
        )
    )
    service = SceneGraphService(expert)

    def add(server: grpc.aio.Server) -> None:
        scene_graph_pb2_grpc.add_SceneGraphServiceServicer_to_server(service, server)

    async with Server(settings=settings, servicers=[Servicer(FULL_NAME, add)], metrics=metrics) as server:
        await server.ready()
        async with open_channel(server.address) as channel:
            yield scene_graph_pb2_grpc.SceneGraphServiceStub(channel)
    await stages.close()
    backend.model.close()


def opened(graph: Path) -> Backend:
    settings = SceneGraphSettings(
        backend="psgtr", model_path=graph, model_licence="MIT", threads=1, longer_side=160, shorter_side=96
    )
    return open_backend(settings, WeightStore(graph.parent))


def request(seed: int = 0, **fields: Any) -> scene_graph_pb2.GenerateSceneGraphRequest:
    picture = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return scene_graph_pb2.GenerateSceneGraphRequest(image=image_pb2.Image(data=buffer.getvalue()), **fields)


async def test_triplets_are_tied_to_objects_boxes_and_masks(graph: Path) -> None:
    async with serving(opened(graph)) as stub:
        reply = await stub.GenerateSceneGraph(request(**LENIENT))
        strict = await stub.GenerateSceneGraph(request())
        card = (await stub.Describe(scene_graph_pb2.SceneGraphServiceDescribeRequest())).description
    assert reply.profile == model_pb2.PROFILE_SERVING
    assert (reply.image_width, reply.image_height, reply.timings.batch_size) == (WIDTH, HEIGHT, 1)
    assert len(reply.objects) > 1
    assert 0 < len(reply.relations) <= 100
    for one in reply.objects:
        assert COCO_PANOPTIC[one.label_id] == one.label
        assert 0 <= one.box.x_min <= one.box.x_max <= 1
        mask = decode_rle(Rle(one.mask.coco_rle.height, one.mask.coco_rle.width, one.mask.coco_rle.counts))
        assert mask.shape == (HEIGHT, WIDTH)
    scores = [one.score for one in reply.relations]
    assert scores == sorted(scores, reverse=True)
    for relation in reply.relations:
        assert relation.subject_index != relation.object_index
        assert max(relation.subject_index, relation.object_index) < len(reply.objects)
    assert all(one.score >= 0.8 for one in strict.relations)
    assert (card.model.name, card.vocabulary_size, card.weights[0].licence) == ("psgtr", 56, "MIT")
    assert (card.input_width, card.input_height) == (160, 96)
    assert card.thresholds["relation_threshold"] == pytest.approx(0.8)


async def test_the_reference_profile_answers_and_says_so(graph: Path) -> None:
    async with serving(opened(graph)) as stub:
        reply = await stub.GenerateSceneGraph(request(profile=model_pb2.PROFILE_REFERENCE))
        lenient = await stub.GenerateSceneGraph(
            request(profile=model_pb2.PROFILE_REFERENCE, max_relations=1, **LENIENT)
        )
    assert reply.profile == lenient.profile == model_pb2.PROFILE_REFERENCE
    assert len(lenient.objects) > 1
    masks = [one.mask.coco_rle for one in lenient.objects]
    covered = sum(decode_rle(Rle(mask.height, mask.width, mask.counts)).astype(int) for mask in masks)
    np.testing.assert_array_equal(covered, 1)


async def test_callers_get_their_own_results_and_those_of_a_solo_run(graph: Path) -> None:
    async with serving(opened(graph)) as stub:
        asked = [request(seed, mask_encoding=geometry_pb2.MASK_ENCODING_NONE, **LENIENT) for seed in range(6)]
        together = await asyncio.gather(*(stub.GenerateSceneGraph(one) for one in asked))
        alone = [await stub.GenerateSceneGraph(one) for one in asked]
    for first, second in zip(together, alone, strict=True):
        assert [one.label_id for one in first.objects] == [one.label_id for one in second.objects]
        assert [one.score for one in first.objects] == pytest.approx(
            [one.score for one in second.objects], abs=1e-4
        )
        assert [one.predicate_id for one in first.relations] == [one.predicate_id for one in second.relations]
    assert len({tuple(one.label_id for one in reply.objects) for reply in together}) > 1


def sees_a_dog() -> FakeEngine:
    """A YOLO that sees one dog in the middle of every picture."""

    def compute(inputs: Any) -> dict[str, Any]:
        batch, _, height, width = inputs["images"].shape
        predictions = np.zeros((batch, 116, 1), np.float32)
        predictions[:, :4, 0] = width / 2, height / 2, width / 2, height / 2
        predictions[:, 4 + COCO_80.index("dog"), 0] = 0.9
        predictions[:, 84, 0] = 1
        return {
            "output0": predictions,
            "output1": np.full((batch, 32, height // 4, width // 4), 9, np.float32),
        }

    return FakeEngine(
        [TensorSpec("images", ("batch", 3, "height", "width"), "float32")],
        [
            TensorSpec("output0", ("batch", 116, "anchors"), "float32"),
            TensorSpec("output1", ("batch", 32, "h", "w"), "float32"),
        ],
        compute,
    )


async def test_the_rules_and_the_network_answer_together(graph: Path) -> None:
    trained = opened(graph)
    own = SceneGraphParams()
    assert trained.reference_defaults is not None
    fused = Backend(
        FusedModel(trained.model, SceneGraphModel(sees_a_dog())),
        FusedParams(trained.defaults, own),
        FusedParams(trained.reference_defaults, own),
        trained.description,
        cost=fused_cost,
        group=fused_group,
    )
    fused.model.warm_up(fused.defaults)
    async with serving(fused) as stub:
        both = await stub.GenerateSceneGraph(request(object_threshold=0.6, relation_threshold=0.5))
        published = await stub.GenerateSceneGraph(request(profile=model_pb2.PROFILE_REFERENCE))
    assert [one.score for one in both.objects if one.label == "dog"] == pytest.approx([0.9])
    assert both.profile == model_pb2.PROFILE_SERVING
    assert published.profile == model_pb2.PROFILE_REFERENCE
    assert not any(one.score == pytest.approx(0.9) and one.label == "dog" for one in published.objects)
