"""OWLv2 as a detector: picture and queries in, boxes out. Knows no gRPC, no words and no weights store.

Two profiles. `serving`: detections best first, boxes clipped to the picture. `reference`: what MoAI does: the picture
squashed to 490 x 490 first, detections in the network's order, boxes as the network gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.detection.model import DetectionResult
from services.detection.owlv2.bundle import (
    BOXES,
    CLASS_EMBEDS,
    IMAGE_OUTPUTS,
    LOGIT_SCALE,
    LOGIT_SHIFT,
    OBJECTNESS,
    PIXELS,
)
from services.detection.owlv2.pixels import input_recipe, network_input, reference_input
from services.detection.owlv2.queries import Float, Queries, best_queries, example_patch, iou, sigmoid, unit
from serving.engine import Engine
from serving.engine.rows import Row, run_rows
from serving.engine.stacking import BatchBuffer
from serving.preprocess import Picture, exact

REVISION = 1
"""Raise it when the same picture, words and weights would give other boxes: it is part of the version callers see."""


@dataclass(frozen=True)
class Owlv2Params:
    """What a request may set. `queries`: what to look for; None: objects of any kind, scored by objectness.

    `iou_threshold`: of two boxes that overlap by more, the better stays, whatever they are; 1 keeps all.
    """

    score_threshold: float
    max_detections: int
    iou_threshold: float = 1.0
    queries: Queries | None = None
    reference: bool = False


@dataclass(frozen=True)
class Prepared:
    """A picture ready for the network: (3, S, S) float32, its own height and width, and whether it was squashed."""

    tensor: Row
    height: int
    width: int
    squashed: bool


@dataclass(frozen=True)
class Raw:
    """What the network said of the P patches of one picture, float32.

    `class_embeds` (P, D), `logit_shift`, `logit_scale`, `objectness` (P,), `boxes` (P, 4): xyxy, normalised to the
    picture as sent, not clipped.
    """

    class_embeds: Float
    logit_shift: Float
    logit_scale: Float
    objectness: Float
    boxes: Float
    height: int
    width: int


class Owlv2Detector:
    """An image graph as `services.detection.export.export_owlv2` writes it, behind an engine.

    `labels`: what it looks for of its own accord. Raises ValueError when the graph is no such graph.
    """

    def __init__(self, engine: Engine, *, labels: Sequence[str]) -> None:
        self._size, self.dimensions = _sizes(engine)
        self._engine = engine
        self._buffer = BatchBuffer()
        self.labels = tuple(labels)

    @property
    def input_size(self) -> int:
        """Side of the network's square input in pixels."""
        return self._size

    def preprocess(self, image: Picture, params: Owlv2Params) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB; only the profile changes what the network sees."""
        height, width = image.shape[:2]
        tensor: Row
        if params.reference:
            tensor = reference_input(exact(image), self._size)
        elif isinstance(image, np.ndarray):
            tensor = network_input(image, self._size)
        else:
            tensor = image.prepare(input_recipe(self._size))
        return Prepared(tensor, height, width, params.reference)

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """Blocking; one caller at a time. What is looked for plays no part: any pictures share a batch."""
        said = run_rows(self._engine, {PIXELS: [item.tensor for item in batch]}, {PIXELS: self._buffer})
        return [
            Raw(
                class_embeds=said[CLASS_EMBEDS][index],
                logit_shift=said[LOGIT_SHIFT][index],
                logit_scale=said[LOGIT_SCALE][index],
                objectness=said[OBJECTNESS][index],
                boxes=_corners(said[BOXES][index], item),
                height=item.height,
                width=item.width,
            )
            for index, item in enumerate(batch)
        ]

    def postprocess(self, raw: Raw, params: Owlv2Params) -> DetectionResult:
        """Score, threshold, and bring into order; under `serving`, clip, and drop what lies beside the picture."""
        if params.queries is None:
            logits, labels = raw.objectness, np.zeros(len(raw.objectness), np.int64)
        else:
            logits, labels = best_queries(raw.class_embeds, raw.logit_shift, raw.logit_scale, params.queries)
        scores, boxes = sigmoid(logits), raw.boxes
        # The published post-processing keeps what is above the threshold, not what reaches it.
        least = np.float32(params.score_threshold)
        sure = scores > least if params.reference else scores >= least
        if not params.reference:
            boxes = boxes.clip(0, 1)
            sure &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        kept = np.flatnonzero(sure & np.isfinite(logits))
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        kept = _apart(raw.boxes, kept, params.iou_threshold, params.max_detections)
        if params.reference:
            kept = np.sort(kept)
        return DetectionResult(
            boxes[kept], scores[kept], labels[kept], raw.height, raw.width, sigmoid(raw.objectness[kept])
        )

    def example(self, raw: Raw, box: Float | None) -> Float:
        """(D,) of unit length: what a query picture shows, as something to look for in others. `box`: where in it,
        xyxy, normalised to it; None: whatever is most like an object."""
        patch = example_patch(raw.class_embeds, raw.boxes, raw.objectness, box)
        return unit(raw.class_embeds[patch])

    def warm_up(self) -> None:
        """One real inference at batch 1 and one at the largest batch."""
        blank = np.zeros((self._size, self._size, 3), np.uint8)
        queries = Queries.of(np.eye(2, self.dimensions, dtype=np.float32))
        params = Owlv2Params(0.5, 1, 0.5, queries)
        for size in sorted({1, self._engine.max_batch}):
            for raw in self.infer([self.preprocess(blank, params)] * size):
                self.postprocess(raw, params)


def _corners(boxes: Float, picture: Prepared) -> Float:
    """(P, 4) centre x, centre y, width, height, shares of the network's square -> xyxy, shares of the picture."""
    half = boxes[:, 2:] / 2
    corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    if picture.squashed:
        return corners  # the square is the picture
    square = max(picture.height, picture.width)
    corners *= np.array([square / picture.width, square / picture.height] * 2, np.float32)
    return corners


def _apart(boxes: Float, order: NDArray[np.intp], most: float, limit: int) -> NDArray[np.intp]:
    """The first `limit` of `order`, best first, that overlap none before them by more than `most`, of any label."""
    if most >= 1:
        return order[:limit]
    stay: list[int] = []
    while len(order) and len(stay) < limit:
        best, order = int(order[0]), order[1:]
        stay.append(best)
        order = order[iou(boxes[order], boxes[best]) <= np.float32(most)]
    return np.array(stay, np.intp)


def _sizes(engine: Engine) -> tuple[int, int]:
    """The input's side in pixels and the number of dimensions of a class embedding."""
    outputs = {spec.name: spec.shape for spec in engine.outputs}
    shape = engine.inputs[0].shape if len(engine.inputs) == 1 else ()
    if not set(IMAGE_OUTPUTS) <= outputs.keys() or len(shape) != 4:
        raise ValueError(f"the graph is no image half of OWLv2: it gives {', '.join(outputs) or 'nothing'}")
    side, dimensions = shape[2], outputs[CLASS_EMBEDS][-1]
    if not isinstance(side, int) or side != shape[3] or not isinstance(dimensions, int):
        raise ValueError(f"the graph does not say its sizes: {engine.inputs[0]}, embeddings of {dimensions}")
    return side, dimensions
