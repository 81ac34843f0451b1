"""YOLO26n as a detector: picture in, boxes out. Knows neither gRPC nor where its weights come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.coco import COCO_80
from serving.engine import Engine
from serving.engine.rows import Row
from serving.engine.stacking import BatchBuffer
from serving.preprocess import Picture
from serving.yolo import INPUT_SIZE, NMS_IOU, Letterbox, decode, network_input, run_batch

REVISION = 1
"""Raise it when the same picture and weights would give other boxes: it is part of the version callers see."""


@dataclass(frozen=True)
class DetectionParams:
    """What a request may set. `labels`: class ids to look for; None looks for all. `iou_threshold`: of two boxes of one
    class that overlap by more, the better stays."""

    score_threshold: float
    max_detections: int
    labels: frozenset[int] | None = None
    iou_threshold: float = NMS_IOU


@dataclass(frozen=True)
class Prepared:
    """A picture ready for the device: (3, h, w) float32 in 0-1, and where the picture lies in it."""

    tensor: Row
    fit: Letterbox


@dataclass(frozen=True)
class Raw:
    """What the network said of one picture: (4 + classes, anchors) float32."""

    output: NDArray[np.float32]
    fit: Letterbox


@dataclass(frozen=True)
class DetectionResult:
    """N objects, best first. `boxes`: (N, 4) float32 xyxy, normalised to the image as sent; `scores`: (N,) float32;
    `labels`: (N,) int64, indices into the model's labels. `height` and `width` of the image in pixels. `objectness`:
    (N,) float32, how much like an object each is whatever its kind; None where the model does not tell."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    height: int
    width: int
    objectness: NDArray[np.float32] | None = None


class Detector:
    """A YOLO detection network behind an engine.

    `rectangular` feeds the network the picture's own ratio instead of a padded square: fewer pixels, and what the
    training framework's `predict` does. Raises ValueError when the engine's graph does not fit `labels`.
    """

    def __init__(self, engine: Engine, *, labels: Sequence[str] = COCO_80, rectangular: bool = True) -> None:
        (self._output,) = (spec.name for spec in engine.outputs)
        rows = engine.outputs[0].shape[1]
        if isinstance(rows, int) and rows != 4 + len(labels):
            raise ValueError(f"the graph has {rows - 4} classes, its labels are {len(labels)}")
        self._engine = engine
        self._buffer = BatchBuffer()
        self._rectangular = rectangular
        self.labels = tuple(labels)

    def preprocess(self, image: Picture, params: DetectionParams) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB. Nothing in `params` changes what the network sees."""
        del params
        return Prepared(*network_input(image, rectangular=self._rectangular))

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """Blocking; one caller at a time."""
        outputs = run_batch(self._engine, [item.tensor for item in batch], self._buffer)
        return [Raw(output[self._output], item.fit) for output, item in zip(outputs, batch, strict=True)]

    def postprocess(self, raw: Raw, params: DetectionParams) -> DetectionResult:
        """Threshold, suppress, and put into coordinates of the image as sent."""
        allowed = None
        if params.labels is not None:
            allowed = np.zeros(len(self.labels), np.bool_)
            allowed[list(params.labels)] = True
        found = decode(
            raw.output,
            classes=len(self.labels),
            score_threshold=params.score_threshold,
            max_detections=params.max_detections,
            allowed=allowed,
            iou_threshold=params.iou_threshold,
        )
        height, width = raw.fit.height, raw.fit.width
        boxes = raw.fit.to_picture(found.boxes) / np.array([width, height] * 2, np.float32)
        return DetectionResult(boxes.astype(np.float32), found.scores, found.labels, height, width)

    def warm_up(self) -> None:
        """One real inference at batch 1 and one at the largest batch."""
        blank = np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
        params = DetectionParams(score_threshold=0.5, max_detections=1)
        for size in sorted({1, self._engine.max_batch}):
            for raw in self.infer([self.preprocess(blank, params)] * size):
                self.postprocess(raw, params)
