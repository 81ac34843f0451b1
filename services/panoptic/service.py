"""`PanopticService` on the wire: requests into parameters, results into messages, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc

from polysight.common.v1 import geometry_pb2, model_pb2
from polysight.vision.v1 import panoptic_pb2, panoptic_pb2_grpc
from services.panoptic.model import Instance, PanopticParams, PanopticResult
from services.panoptic.runs import segment_rles
from services.panoptic.segmenter import AnySegmenter
from serving.expert import Stages, time_left_s
from serving.masks import Rle, encode_png, encode_rle_windows

FULL_NAME = "polysight.vision.v1.PanopticService"


class PanopticServicer(panoptic_pb2_grpc.PanopticServiceServicer):
    """Answers with `model`, through `stages`; `defaults` hold what a request leaves unset, `reference_defaults` under
    the profile of the published systems (None: the model has no such profile)."""

    def __init__(
        self,
        model: AnySegmenter,
        stages: Stages[Any, Any],
        *,
        description: model_pb2.ModelDescription,
        defaults: PanopticParams,
        reference_defaults: PanopticParams | None = None,
    ) -> None:
        self._model = model
        self._stages = stages
        self._description = description
        self._defaults = defaults
        self._reference_defaults = reference_defaults

    async def Segment(
        self, request: panoptic_pb2.SegmentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> panoptic_pb2.SegmentResponse:
        """Segment one image."""
        params = self._params(request)
        reply, timings = await self._stages.run(
            request.image.data,
            lambda image: self._model.preprocess(image, params),
            lambda raw: self._reply(self._model.postprocess(raw, params), request.mask_encoding, params),
            time_left_s(context),
        )
        reply.timings.CopyFrom(timings.to_proto())
        return reply

    async def Describe(
        self,
        request: panoptic_pb2.PanopticServiceDescribeRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> panoptic_pb2.PanopticServiceDescribeResponse:
        """What answers here."""
        return panoptic_pb2.PanopticServiceDescribeResponse(description=self._description)

    def _params(self, request: panoptic_pb2.SegmentRequest) -> PanopticParams:
        given, defaults = request.HasField, self._defaults
        if request.profile == model_pb2.PROFILE_REFERENCE and self._reference_defaults is not None:
            defaults = self._reference_defaults
        return PanopticParams(
            score_threshold=request.score_threshold if given("score_threshold") else defaults.score_threshold,
            mask_threshold=request.mask_threshold if given("mask_threshold") else defaults.mask_threshold,
            overlap_threshold=(
                request.overlap_threshold if given("overlap_threshold") else defaults.overlap_threshold
            ),
            max_segments=request.max_segments if given("max_segments") else defaults.max_segments,
            grids=tuple((grid.height, grid.width) for grid in request.grids),
            with_instances=request.include_instances,
            reference=defaults.reference,
        )

    def _reply(
        self, result: PanopticResult, encoding: geometry_pb2.MaskEncoding, params: PanopticParams
    ) -> panoptic_pb2.SegmentResponse:
        height, width = result.segment_map.shape
        write = _segment_writer(encoding, result)
        reply = panoptic_pb2.SegmentResponse(
            image_width=width,
            image_height=height,
            model=self._description.model,
            profile=model_pb2.PROFILE_REFERENCE if params.reference else model_pb2.PROFILE_SERVING,
        )
        for segment in result.segments:
            part = reply.segments.add(
                id=segment.id,
                label_id=segment.label_id,
                label=segment.label,
                is_thing=segment.is_thing,
                score=segment.score,
                box=_box(segment.box),
                area=segment.area,
            )
            if write is not None:
                part.mask.CopyFrom(write(segment.number))
        for grid in result.grids:
            rows, columns = grid.shape
            reply.grids.add(height=rows, width=columns, segment_ids=grid.astype("<u2").tobytes())
        if params.with_instances:
            _add_instances(reply, result.instances, encoding)
        return reply


def _add_instances(
    reply: panoptic_pb2.SegmentResponse, instances: Sequence[Instance], encoding: geometry_pb2.MaskEncoding
) -> None:
    height, width = reply.image_height, reply.image_width
    masks = [instance.mask for instance in instances]
    rles: list[Rle] = []
    if encoding not in (geometry_pb2.MASK_ENCODING_PNG, geometry_pb2.MASK_ENCODING_NONE):
        windows = [(mask.pixels, mask.top, mask.left) for mask in masks]
        rles = encode_rle_windows(windows, height=height, width=width)
    for index, instance in enumerate(instances):
        drawn = reply.instances.add(
            label_id=instance.label_id, label=instance.label, score=instance.score, box=_box(instance.box)
        )
        if rles:
            drawn.mask.CopyFrom(_coco_rle(rles[index]))
        elif encoding == geometry_pb2.MASK_ENCODING_PNG:
            drawn.mask.png = encode_png(masks[index].full(height, width))


def _box(box: tuple[float, float, float, float]) -> geometry_pb2.Box:
    x_min, y_min, x_max, y_max = box
    return geometry_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)


def _segment_writer(
    encoding: geometry_pb2.MaskEncoding, result: PanopticResult
) -> Callable[[int], geometry_pb2.Mask] | None:
    """From a segment's number to its mask on the wire; None if no masks are wanted."""
    if encoding == geometry_pb2.MASK_ENCODING_NONE:
        return None
    if encoding == geometry_pb2.MASK_ENCODING_PNG:
        return lambda number: geometry_pb2.Mask(png=encode_png(result.segment_map == number))
    rles = segment_rles(result.segment_map, len(result.segments) + 1)
    return lambda number: _coco_rle(rles[number])


def _coco_rle(rle: Rle) -> geometry_pb2.Mask:
    return geometry_pb2.Mask(
        coco_rle=geometry_pb2.CocoRle(height=rle.height, width=rle.width, counts=rle.counts)
    )
