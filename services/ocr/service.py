"""`polysight.vision.v1.OcrService`: translates between the contract and `OcrModel`, and thinks nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc

from polysight.common.v1 import geometry_pb2, model_pb2
from polysight.vision.v1 import ocr_pb2, ocr_pb2_grpc
from services.ocr.geometry import Quad
from services.ocr.model import Line, OcrModel, OcrParams
from services.ocr.stages import OcrStages
from services.ocr.words import Word
from serving.expert import time_left_s

FULL_NAME = ocr_pb2.DESCRIPTOR.services_by_name["OcrService"].full_name
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class OcrExpert:
    """What answers: the model, its way through the stages, what holds where a request says nothing, and its card."""

    model: OcrModel
    stages: OcrStages
    defaults: OcrParams
    description: model_pb2.ModelDescription


class OcrService(ocr_pb2_grpc.OcrServiceServicer):
    """Serves `expert`, which is set once the weights are loaded and warm; the server admits no call before."""

    def __init__(self, expert: asyncio.Future[OcrExpert]) -> None:
        self._expert = expert

    async def RecognizeText(
        self, request: ocr_pb2.RecognizeTextRequest, context: Context
    ) -> ocr_pb2.RecognizeTextResponse:
        expert = await asyncio.shield(self._expert)
        params = requested_params(request, expert.defaults)
        result, timings = await expert.stages.run(request.image.data, params, time_left_s(context))
        return ocr_pb2.RecognizeTextResponse(
            lines=[_line(line) for line in result.lines],
            image_width=result.width,
            image_height=result.height,
            timings=timings.to_proto(),
            model=expert.description.model,
        )

    async def Describe(
        self, request: ocr_pb2.OcrServiceDescribeRequest, context: Context
    ) -> ocr_pb2.OcrServiceDescribeResponse:
        expert = await asyncio.shield(self._expert)
        return ocr_pb2.OcrServiceDescribeResponse(description=expert.description)


def requested_params(request: ocr_pb2.RecognizeTextRequest, defaults: OcrParams) -> OcrParams:
    """What `request` asks for; a field that it does not set keeps the value of `defaults`."""
    asked = {
        name: getattr(request, field)
        for name, field in (
            ("min_confidence", "confidence_threshold"),
            ("min_region_score", "detection_threshold"),
            ("use_angle", "use_angle_classifier"),
        )
        if request.HasField(field)
    }
    return replace(defaults, **asked)


def describe(
    *,
    model: model_pb2.ModelRef,
    charset: Sequence[str],
    defaults: OcrParams,
    max_batch: int,
    weights: Sequence[model_pb2.WeightsInfo],
) -> model_pb2.ModelDescription:
    """The description of this expert. `charset` counts the blank class, `vocabulary_size` does not."""
    return model_pb2.ModelDescription(
        model=model,
        vocabulary_size=len(charset) - 1,
        thresholds={
            "confidence_threshold": defaults.min_confidence,
            "detection_threshold": defaults.min_region_score,
        },
        max_batch_size=max_batch,
        weights=weights,
    )


def _line(line: Line) -> ocr_pb2.TextLine:
    x_min, y_min, x_max, y_max = line.box
    return ocr_pb2.TextLine(
        text=line.text,
        confidence=line.confidence,
        polygon=_polygon(line.polygon),
        box=geometry_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max),
        upside_down=line.upside_down,
        words=[_word(word) for word in line.words],
    )


def _word(word: Word) -> ocr_pb2.Word:
    return ocr_pb2.Word(text=word.text, confidence=word.confidence, polygon=_polygon(word.quad))


def _polygon(quad: Quad) -> geometry_pb2.Polygon:
    return geometry_pb2.Polygon(points=[geometry_pb2.Point(x=x, y=y) for x, y in quad.tolist()])
