"""`DetectionService` on the wire: requests into what is asked, results into messages, nothing else."""

from __future__ import annotations

from typing import Any

import grpc

from polysight.common.v1 import geometry_pb2, model_pb2
from polysight.vision.v1 import detection_pb2, detection_pb2_grpc
from services.detection.detector import AnyDetector, AnySearch, Corners, Example, Request, Wanted
from services.detection.model import DetectionResult
from serving.errors import InvalidFieldError
from serving.expert import Stages, time_left_s
from serving.image import read_header

FULL_NAME = "polysight.vision.v1.DetectionService"


class DetectionServicer(detection_pb2_grpc.DetectionServiceServicer):
    """Answers with `model`, through `stages`, looking for what `search` makes of a request."""

    def __init__(
        self,
        model: AnyDetector,
        stages: Stages[Any, Any],
        search: AnySearch,
        *,
        description: detection_pb2.DetectionServiceDescribeResponse,
    ) -> None:
        self._model = model
        self._stages = stages
        self._search = search
        self._description = description

    async def Detect(
        self, request: detection_pb2.DetectRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> detection_pb2.DetectResponse:
        """Find the objects of one image."""
        if request.vocabulary or request.image_queries:
            read_header(request.image.data)  # what is no picture is refused before a word is read
        wanted = await self._search.resolve(_asked(request), time_left_s(context))
        reply, timings = await self._stages.run(
            request.image.data,
            lambda image: self._model.preprocess(image, wanted.params),
            lambda raw: self._reply(self._model.postprocess(raw, wanted.params), wanted),
            time_left_s(context),
        )
        reply.timings.CopyFrom(timings.to_proto())
        return reply

    async def Describe(
        self,
        request: detection_pb2.DetectionServiceDescribeRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> detection_pb2.DetectionServiceDescribeResponse:
        """What answers here."""
        return self._description

    def _reply(self, result: DetectionResult, wanted: Wanted[Any]) -> detection_pb2.DetectResponse:
        reply = detection_pb2.DetectResponse(
            image_width=result.width,
            image_height=result.height,
            model=self._description.description.model,
            profile=model_pb2.PROFILE_REFERENCE if wanted.reference else model_pb2.PROFILE_SERVING,
            vocabulary_version=wanted.vocabulary_version,
        )
        rows = zip(result.boxes.tolist(), result.scores.tolist(), result.labels.tolist(), strict=True)
        for index, ((x_min, y_min, x_max, y_max), score, label) in enumerate(rows):
            box = geometry_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
            detection = reply.detections.add(box=box, score=score, label_id=label)
            if wanted.names:
                detection.label = wanted.names[label]
            if wanted.claims is not None:
                detection.vocabulary_index = wanted.claims[label]
            if wanted.by_example:
                detection.image_query_index = label
            if result.objectness is not None:
                detection.objectness = result.objectness[index]
        for term in wanted.terms:
            names = [wanted.names[label] for label in term.label_ids]
            reply.vocabulary.add(term=term.term, visible=term.visible, labels=names, note=term.note)
        return reply


def _asked(request: detection_pb2.DetectRequest) -> Request:
    given = request.HasField
    return Request(
        score_threshold=request.score_threshold if given("score_threshold") else None,
        max_detections=request.max_detections if given("max_detections") else None,
        iou_threshold=request.iou_threshold if given("iou_threshold") else None,
        vocabulary=tuple(request.vocabulary),
        class_agnostic=request.class_agnostic,
        examples=tuple(
            Example(
                one.image.data,
                _corners(one.box, f"image_queries[{index}].box") if one.HasField("box") else None,
            )
            for index, one in enumerate(request.image_queries)
        ),
        reference=request.profile == model_pb2.PROFILE_REFERENCE,
    )


def _corners(box: geometry_pb2.Box, field: str) -> Corners:
    """Raises InvalidFieldError for a box that encloses nothing of its picture, as one of no numbers does."""
    if not (0 <= box.x_min < box.x_max <= 1 and 0 <= box.y_min < box.y_max <= 1):
        raise InvalidFieldError(
            f"{field}: corners must lie in 0-1, the first above and left of the second",
            metadata={"field": field},
        )
    return box.x_min, box.y_min, box.x_max, box.y_max
