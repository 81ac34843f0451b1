"""`polysight.vision.v1.SceneGraphService`: translates between the contract and `SceneGraphModel`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from polysight.common.v1 import geometry_pb2, model_pb2
from polysight.vision.v1 import scene_graph_pb2, scene_graph_pb2_grpc
from services.scene_graph.model import SceneGraph, SceneGraphParams
from services.scene_graph.predicates import PREDICATES
from services.scene_graph.relater import AnyParams, AnyRelater
from services.scene_graph.rules import Relation
from serving.coco import COCO_PANOPTIC
from serving.expert import Stages, time_left_s
from serving.masks import encode_png, encode_rle_windows
from serving.yolo import INPUT_SIZE, CroppedMask

FULL_NAME = scene_graph_pb2.DESCRIPTOR.services_by_name["SceneGraphService"].full_name
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class SceneGraphExpert:
    """All that answers: the model, its way through the stages, what holds where a request says nothing, and
    what Describe says. `reference_defaults`: None where there is no published system to follow.
    """

    model: AnyRelater
    stages: Stages[Any, Any]
    defaults: AnyParams
    description: model_pb2.ModelDescription
    reference_defaults: AnyParams | None = None


class SceneGraphService(scene_graph_pb2_grpc.SceneGraphServiceServicer):
    """Serves the expert. It is a future because the server listens before the weights are there; until the
    warm-up is done no call gets this far.
    """

    def __init__(self, expert: asyncio.Future[SceneGraphExpert]) -> None:
        self._expert = expert

    async def GenerateSceneGraph(
        self, request: scene_graph_pb2.GenerateSceneGraphRequest, context: Context
    ) -> scene_graph_pb2.GenerateSceneGraphResponse:
        expert = await self._ready()
        params = _params(request, expert)

        def finish(raw: Any) -> scene_graph_pb2.GenerateSceneGraphResponse:
            # Encoding masks is postprocessing too, and far too slow for the event loop.
            return _response(expert.model.postprocess(raw, params), request.mask_encoding)

        response, timings = await expert.stages.run(
            request.image.data,
            lambda image: expert.model.preprocess(image, params),
            finish,
            time_left_s(context),
        )
        response.profile = model_pb2.PROFILE_REFERENCE if params.reference else model_pb2.PROFILE_SERVING
        response.timings.CopyFrom(timings.to_proto())
        response.model.CopyFrom(expert.description.model)
        return response

    async def Describe(
        self, request: scene_graph_pb2.SceneGraphServiceDescribeRequest, context: Context
    ) -> scene_graph_pb2.SceneGraphServiceDescribeResponse:
        return scene_graph_pb2.SceneGraphServiceDescribeResponse(
            description=(await self._ready()).description
        )

    async def _ready(self) -> SceneGraphExpert:
        # Shielded: a caller who leaves must not cancel the future that all callers wait for.
        return await asyncio.shield(self._expert)


def describe(
    *,
    model: model_pb2.ModelRef,
    defaults: SceneGraphParams,
    max_batch: int,
    weights: Sequence[model_pb2.WeightsInfo],
    input_size: tuple[int, int] = (INPUT_SIZE, INPUT_SIZE),
) -> model_pb2.ModelDescription:
    """The description of this expert; its labels are the predicates. `input_size`: (height, width), the largest."""
    return model_pb2.ModelDescription(
        model=model,
        labels=PREDICATES,
        vocabulary_size=len(PREDICATES),
        input_width=input_size[1],
        input_height=input_size[0],
        thresholds={
            "object_threshold": defaults.object_threshold,
            "relation_threshold": defaults.relation_threshold,
        },
        max_batch_size=max_batch,
        weights=weights,
    )


def _params(request: scene_graph_pb2.GenerateSceneGraphRequest, expert: SceneGraphExpert) -> AnyParams:
    defaults = expert.defaults
    if request.profile == model_pb2.PROFILE_REFERENCE and expert.reference_defaults is not None:
        defaults = expert.reference_defaults
    asked = {
        name: getattr(request, name)
        for name in ("object_threshold", "relation_threshold", "max_relations")
        if request.HasField(name)
    }
    return defaults.asked(asked)


def _response(graph: SceneGraph, encoding: int) -> scene_graph_pb2.GenerateSceneGraphResponse:
    masks = _masks(graph.masks, graph.height, graph.width, encoding)
    return scene_graph_pb2.GenerateSceneGraphResponse(
        objects=[_object(graph, index, mask) for index, mask in enumerate(masks)],
        relations=[_relation(relation) for relation in graph.relations],
        image_width=graph.width,
        image_height=graph.height,
    )


def _object(graph: SceneGraph, index: int, mask: geometry_pb2.Mask | None) -> scene_graph_pb2.SceneObject:
    label = int(graph.labels[index])
    x_min, y_min, x_max, y_max = graph.boxes[index].tolist()
    return scene_graph_pb2.SceneObject(
        label_id=label,
        label=COCO_PANOPTIC[label],
        score=float(graph.scores[index]),
        box=geometry_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max),
        mask=mask,
    )


def _masks(
    masks: Sequence[CroppedMask], height: int, width: int, encoding: int
) -> Sequence[geometry_pb2.Mask | None]:
    if encoding == geometry_pb2.MASK_ENCODING_NONE:
        return [None] * len(masks)
    if encoding == geometry_pb2.MASK_ENCODING_PNG:
        return [geometry_pb2.Mask(png=encode_png(mask.full(height, width))) for mask in masks]
    windows = [(mask.pixels, mask.top, mask.left) for mask in masks]
    return [
        geometry_pb2.Mask(
            coco_rle=geometry_pb2.CocoRle(height=rle.height, width=rle.width, counts=rle.counts)
        )
        for rle in encode_rle_windows(windows, height=height, width=width)
    ]


def _relation(relation: Relation) -> scene_graph_pb2.Relation:
    return scene_graph_pb2.Relation(
        subject_index=relation.subject,
        object_index=relation.object,
        predicate_id=relation.predicate_id,
        predicate=relation.predicate,
        score=relation.score,
    )
