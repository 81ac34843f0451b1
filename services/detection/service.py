"""`DetectionService` on the wire: requests into parameters, results into messages, nothing else."""

from __future__ import annotations

from typing import Any

import grpc

from polysight.common.v1 import geometry_pb2, model_pb2
from polysight.vision.v1 import detection_pb2, detection_pb2_grpc
from services.detection.model import DetectionParams, DetectionResult, Detector, Prepared, Raw
from services.detection.vocabulary import MappedVocabulary, Vocabulary
from serving.expert import Stages, time_left_s

FULL_NAME = "polysight.vision.v1.DetectionService"


class DetectionServicer(detection_pb2_grpc.DetectionServiceServicer):
    """Answers with `model`, through `stages`; `defaults` hold what a request leaves unset."""

    def __init__(
        self,
        model: Detector,
        stages: Stages[Prepared, Raw],
        *,
        description: model_pb2.ModelDescription,
        defaults: DetectionParams,
    ) -> None:
        self._model = model
        self._stages = stages
        self._description = description
        self._defaults = defaults
        self._vocabulary = Vocabulary(model.labels)

    async def Detect(
        self, request: detection_pb2.DetectRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> detection_pb2.DetectResponse:
        """Find the objects of one image."""
        vocabulary = self._vocabulary.map(request.vocabulary) if request.vocabulary else None
        params = self._params(request, vocabulary)
        reply, timings = await self._stages.run(
            request.image.data,
            lambda image: self._model.preprocess(image, params),
            lambda raw: self._reply(self._model.postprocess(raw, params), vocabulary),
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
        return detection_pb2.DetectionServiceDescribeResponse(description=self._description)

    def _params(
        self, request: detection_pb2.DetectRequest, vocabulary: MappedVocabulary | None
    ) -> DetectionParams:
        given, defaults = request.HasField, self._defaults
        return DetectionParams(
            score_threshold=request.score_threshold if given("score_threshold") else defaults.score_threshold,
            max_detections=request.max_detections if given("max_detections") else defaults.max_detections,
            labels=None if vocabulary is None else frozenset(vocabulary.claims),
        )

    def _reply(
        self, result: DetectionResult, vocabulary: MappedVocabulary | None
    ) -> detection_pb2.DetectResponse:
        labels = self._model.labels
        reply = detection_pb2.DetectResponse(
            image_width=result.width, image_height=result.height, model=self._description.model
        )
        rows = zip(result.boxes.tolist(), result.scores.tolist(), result.labels.tolist(), strict=True)
        for (x_min, y_min, x_max, y_max), score, label in rows:
            box = geometry_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
            detection = reply.detections.add(box=box, score=score, label_id=label, label=labels[label])
            if vocabulary is not None:
                detection.vocabulary_index = vocabulary.claims[label]
        for term in vocabulary.terms if vocabulary is not None else ():
            names = [labels[label] for label in term.label_ids]
            reply.vocabulary.add(term=term.term, visible=term.visible, labels=names)
        return reply
