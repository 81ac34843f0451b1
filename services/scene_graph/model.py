"""The geometric scene-graph model: objects from YOLO masks, relations from the rules.

Knows no wire and no device: `preprocess` and `postprocess` are pure, `infer` hands tensors to the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.scene_graph.geometry import GRID, Scene
from services.scene_graph.rules import MAX_RELATIONS, Relation, relations
from serving.coco import COCO_80
from serving.engine import Engine
from serving.engine.rows import Row
from serving.engine.stacking import BatchBuffer
from serving.preprocess import Picture
from serving.yolo import CroppedMask, Float, Letterbox, decode, draw_masks, network_input, run_batch

MAX_OBJECTS = 50
"""The most objects of one picture, best first: relations cost the square of their number."""


@dataclass(frozen=True)
class SceneGraphParams:
    """What a request may ask for: least scores in 0-1, and the most relations.

    `reference`: do as the published system does, where the backend has one.
    """

    object_threshold: float = 0.4
    relation_threshold: float = 0.3
    max_relations: int = MAX_RELATIONS
    reference: bool = False

    def asked(self, changes: Mapping[str, Any]) -> SceneGraphParams:
        """These, but for what a request sets, by name."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Prepared:
    """A picture as the network takes it: (3, h, w) float32 in 0-1, and where the picture lies in it."""

    tensor: Row
    fit: Letterbox


@dataclass(frozen=True)
class Raw:
    """The network's two outputs for one picture (see `serving.yolo`), and where the picture lay."""

    predictions: Float
    prototypes: Float
    fit: Letterbox


@dataclass(frozen=True)
class SceneGraph:
    """N objects, best first, and the relations between them.

    `height`, `width`: the picture in pixels. `labels`: (N,) int64 class ids of COCO panoptic. `scores`: (N,)
    float32. `boxes`: (N, 4) float32 xyxy normalised to the picture. `masks`: N masks at its resolution.
    """

    height: int
    width: int
    labels: NDArray[np.int64]
    scores: Float
    boxes: Float
    masks: tuple[CroppedMask, ...]
    relations: tuple[Relation, ...]

    def __post_init__(self) -> None:
        if not len(self.labels) == len(self.scores) == len(self.boxes) == len(self.masks):
            raise ValueError("the arrays of a scene graph do not have one row per object")


class SceneGraphModel:
    """Relates what a YOLO segmentation graph sees. Raises EngineError where the device fails."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._buffer = BatchBuffer()
        self._predictions, self._prototypes = (spec.name for spec in engine.outputs)

    @property
    def max_batch(self) -> int:
        """The most pictures of one `infer`."""
        return self._engine.max_batch

    def preprocess(self, image: Picture, params: SceneGraphParams = SceneGraphParams()) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB. Nothing in `params` changes what the network sees."""
        del params
        return Prepared(*network_input(image))

    def infer(self, batch: Sequence[Prepared]) -> Sequence[Raw]:
        """Run prepared pictures; blocking, one caller at a time."""
        outputs = run_batch(self._engine, [prepared.tensor for prepared in batch], self._buffer)
        return [
            Raw(output[self._predictions], output[self._prototypes], prepared.fit)
            for prepared, output in zip(batch, outputs, strict=True)
        ]

    def postprocess(self, raw: Raw, params: SceneGraphParams) -> SceneGraph:
        """Objects at or above the threshold, their masks, and the relations between them."""
        found = decode(
            raw.predictions,
            classes=len(COCO_80),
            score_threshold=params.object_threshold,
            max_detections=MAX_OBJECTS,
        )
        height, width = raw.fit.height, raw.fit.width
        boxes = raw.fit.to_picture(found.boxes)
        masks = tuple(draw_masks(found.coefficients, raw.prototypes, boxes, raw.fit))
        normalised: Float = (boxes / np.array([width, height, width, height])).astype(np.float32)
        scene = Scene(
            labels=found.labels,
            scores=found.scores.astype(np.float64),
            boxes=normalised.astype(np.float64),
            masks=on_grid(masks, height, width),
        )
        related = relations(scene, threshold=params.relation_threshold, limit=params.max_relations)
        return SceneGraph(height, width, found.labels, found.scores, normalised, masks, related)

    def warm_up(self, params: SceneGraphParams) -> None:
        """A whole image through every stage at batch 1, and then at the largest batch. Blocking."""
        blank = self.preprocess(np.zeros((640, 640, 3), np.uint8))
        for size in sorted({1, self.max_batch}):
            for raw in self.infer([blank] * size):
                self.postprocess(raw, params)

    def close(self) -> None:
        """Give the device back."""
        self._engine.close()


def on_grid(masks: Sequence[CroppedMask], height: int, width: int) -> NDArray[np.bool_]:
    """Masks of a (height, width) picture sampled at the cells' centres: (N, h, w) bool, h and w at most GRID."""
    scale = max(1.0, max(height, width) / GRID)
    rows, columns = _centres(height, scale), _centres(width, scale)
    grid = np.zeros((len(masks), len(rows), len(columns)), np.bool_)
    for cells, mask in zip(grid, masks, strict=True):
        down, across = mask.window()
        inside_y = (rows >= down.start) & (rows < down.stop)
        inside_x = (columns >= across.start) & (columns < across.stop)
        sample = np.ix_(rows[inside_y] - down.start, columns[inside_x] - across.start)
        cells[np.ix_(inside_y, inside_x)] = mask.pixels[sample]
    return grid


def _centres(size: int, scale: float) -> NDArray[np.int64]:
    cells = max(1, round(size / scale))
    return ((np.arange(cells) + 0.5) * (size / cells)).astype(np.int64)
