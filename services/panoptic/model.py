"""YOLO26n-seg as a panoptic segmenter of things: picture in, partition out. Knows no gRPC and no weights store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.panoptic.grid import index_grid
from services.panoptic.partition import NOBODY, Partition, partition
from serving.coco import COCO_80, UNLABELLED, UNLABELLED_ID
from serving.engine import Engine
from serving.engine.rows import Row
from serving.engine.stacking import BatchBuffer
from serving.preprocess import Picture
from serving.yolo import INPUT_SIZE, CroppedMask, Letterbox, decode, draw_masks, network_input, run_batch

REVISION = 1
"""Raise it when the same picture and weights would give another partition: it is part of the version callers see."""

Float = NDArray[np.float32]


@dataclass(frozen=True)
class PanopticParams:
    """What a request may set. `grids`: (rows, columns) of each index grid wanted. `with_instances`: whether anyone will
    read the instances. `reference`: do as the published systems do, where the backend can."""

    score_threshold: float
    mask_threshold: float
    overlap_threshold: float
    max_segments: int
    grids: tuple[tuple[int, int], ...] = ()
    with_instances: bool = False
    reference: bool = False


@dataclass(frozen=True)
class Prepared:
    """A picture ready for the device: (3, h, w) float32 in 0-1, and where the picture lies in it."""

    tensor: Row
    fit: Letterbox


@dataclass(frozen=True)
class Raw:
    """What the network said of one picture: (4 + classes + 32, anchors) and (32, h/4, w/4), float32."""

    output: Float
    prototypes: Float
    fit: Letterbox


@dataclass(frozen=True)
class Instance:
    """One object as the model drew it; masks of instances may overlap. `box`: xyxy as predicted, normalised to the
    image as sent."""

    label_id: int
    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: CroppedMask


@dataclass(frozen=True)
class Segment:
    """One part of the partition. `number` is its value in the segment map, `box` the tight box of its pixels (xyxy,
    normalised), `area` its share of the picture."""

    id: int
    number: int
    label_id: int
    label: str
    is_thing: bool
    score: float
    box: tuple[float, float, float, float]
    area: float


@dataclass(frozen=True)
class PanopticResult:
    """`segment_map`: (H, W) uint16 in Fortran order, the numbers of `segments`. `segments`: things best first, then
    `unlabelled` if any pixel is left. `grids`: (rows, columns) uint16 of segment ids, 0 for unlabelled. `instances`:
    best first."""

    segment_map: NDArray[np.uint16]
    segments: tuple[Segment, ...]
    grids: tuple[NDArray[np.uint16], ...]
    instances: tuple[Instance, ...]


class PanopticModel:
    """A YOLO segmentation network behind an engine; its classes are numbered as COCO panoptic numbers things.

    `rectangular` feeds the network the picture's own ratio instead of a padded square: fewer pixels, and what the
    training framework's `predict` does. Raises ValueError when the engine's graph does not fit.
    """

    def __init__(self, engine: Engine, *, labels: Sequence[str] = COCO_80, rectangular: bool = True) -> None:
        self._output, self._prototypes = (spec.name for spec in engine.outputs)
        rows, channels = engine.outputs[0].shape[1], engine.outputs[1].shape[1]
        if isinstance(rows, int) and isinstance(channels, int) and rows != 4 + len(labels) + channels:
            raise ValueError(f"the graph has {rows - 4 - channels} classes, its labels are {len(labels)}")
        self._engine = engine
        self._buffer = BatchBuffer()
        self._rectangular = rectangular
        self.labels = tuple(labels)

    def preprocess(self, image: Picture, params: PanopticParams) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB. Nothing in `params` changes what the network sees."""
        del params
        return Prepared(*network_input(image, rectangular=self._rectangular))

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """Blocking; one caller at a time."""
        outputs = run_batch(self._engine, [item.tensor for item in batch], self._buffer)
        return [
            Raw(output[self._output], output[self._prototypes], item.fit)
            for output, item in zip(outputs, batch, strict=True)
        ]

    def postprocess(self, raw: Raw, params: PanopticParams) -> PanopticResult:
        """Draw the instances, resolve their overlaps, reduce to grids."""
        height, width = raw.fit.height, raw.fit.width
        instances = self._instances(raw, params)
        parts = partition(
            [instance.mask for instance in instances],
            height,
            width,
            overlap_threshold=params.overlap_threshold,
        )
        segments = _segments([instances[member] for member in parts.members], parts)
        grids = tuple(index_grid(parts.segment_map, rows, columns) for rows, columns in params.grids)
        return PanopticResult(parts.segment_map, segments, grids, instances)

    def warm_up(self) -> None:
        """One real inference at batch 1 and one at the largest batch."""
        blank = np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
        params = PanopticParams(0.001, 0.5, 0.5, 8, ((35, 35),))
        for size in sorted({1, self._engine.max_batch}):
            for raw in self.infer([self.preprocess(blank, params)] * size):
                self.postprocess(raw, params)

    def _instances(self, raw: Raw, params: PanopticParams) -> tuple[Instance, ...]:
        found = decode(
            raw.output,
            classes=len(self.labels),
            score_threshold=params.score_threshold,
            max_detections=params.max_segments,
        )
        boxes = raw.fit.to_picture(found.boxes)
        masks = draw_masks(
            found.coefficients, raw.prototypes, boxes, raw.fit, threshold=params.mask_threshold
        )
        normalised = boxes / np.array([raw.fit.width, raw.fit.height] * 2, np.float32)
        rows = zip(found.labels.tolist(), found.scores.tolist(), normalised.tolist(), masks, strict=True)
        return tuple(
            Instance(label, self.labels[label], score, (box[0], box[1], box[2], box[3]), mask)
            for label, score, box, mask in rows
            if mask.pixels.any()  # as the training framework does: a box without a pixel inside is no instance
        )


def _segments(things: Sequence[Instance], parts: Partition) -> tuple[Segment, ...]:
    height, width = parts.segment_map.shape
    scaled = (parts.boxes / np.array([width, height] * 2)).tolist()
    shares = (parts.areas / (height * width)).tolist()

    def segment(id: int, number: int, label_id: int, label: str, is_thing: bool, score: float) -> Segment:
        x0, y0, x1, y1 = scaled[number]
        return Segment(id, number, label_id, label, is_thing, score, (x0, y0, x1, y1), shares[number])

    segments = [
        segment(number, number, thing.label_id, thing.label, True, thing.score)
        for number, thing in enumerate(things, start=1)
    ]
    if parts.areas[NOBODY]:
        segments.append(segment(len(things) + 1, NOBODY, UNLABELLED_ID, UNLABELLED, False, 0.0))
    return tuple(segments)
