"""PSGTR as a scene-graph model: picture in, objects and relations out. Knows no gRPC and no weights store.

Two profiles. `serving`: the picture at its own ratio in the colours the network was trained on, duplicates merged,
fixed orders. `reference`: what MoAI does with it (see `pixels` and `reference_graph`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.scene_graph.model import SceneGraph, SceneGraphParams
from services.scene_graph.predicates import PREDICATES
from services.scene_graph.psgtr.pixels import (
    LONGER,
    SHORTER,
    STRIDE,
    Fit,
    Float,
    fitted,
    input_recipe,
    network_input,
    picture_mask,
)
from services.scene_graph.psgtr.reference_graph import reference_graph
from services.scene_graph.psgtr.serving_graph import serving_graph
from services.scene_graph.psgtr.triplets import Answer
from serving.coco import COCO_PANOPTIC
from serving.engine import Engine
from serving.engine.rows import Row, run_rows
from serving.engine.stacking import BatchBuffer
from serving.preprocess import Picture, exact

REVISION = "psgtr-1"
"""Changes whenever the same picture and weights could give another graph: part of the version callers see."""

SERVING = SceneGraphParams(object_threshold=0.5, relation_threshold=0.8, max_relations=100)
"""MoAI's thresholds, and as many relations as a reply holds."""

REFERENCE = SceneGraphParams(object_threshold=0.5, relation_threshold=0.8, max_relations=10, reference=True)
"""What MoAI sets."""

_INPUTS = ("pixel_values", "pixel_mask")
_COLUMNS = {
    "subject_logits": len(COCO_PANOPTIC) + 1,
    "object_logits": len(COCO_PANOPTIC) + 1,
    "relation_logits": len(PREDICATES) + 1,
    "subject_boxes": 4,
    "object_boxes": 4,
}
_MASKS = ("subject_masks", "object_masks")


@dataclass(frozen=True)
class Prepared:
    """A picture ready for the network: (3, h, w) and (h, w) float32, and where the picture lies in them."""

    tensor: Row
    mask: Float
    fit: Fit


class PsgtrModel:
    """A graph as `services.scene_graph.export.export_psgtr` writes it, behind an engine.

    `longer`, `shorter`: sides in pixels that the picture is scaled to fit, as `pixels.network_input` has it. Raises
    ValueError when the graph does not fit.
    """

    def __init__(self, engine: Engine, *, longer: int = LONGER, shorter: int = SHORTER) -> None:
        _check(engine)
        self._engine = engine
        self._buffers = {name: BatchBuffer() for name in _INPUTS}
        self._longer, self._shorter = longer, shorter

    @property
    def max_batch(self) -> int:
        """The most pictures of one `infer`."""
        return self._engine.max_batch

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the largest input, that of a wide picture."""
        return -(-self._shorter // STRIDE) * STRIDE, -(-self._longer // STRIDE) * STRIDE

    def preprocess(self, image: Picture, params: SceneGraphParams = SERVING) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB; only the profile changes what the network sees."""
        if params.reference or isinstance(image, np.ndarray):
            made = network_input(
                exact(image), longer=self._longer, shorter=self._shorter, as_published=params.reference
            )
            return Prepared(*made)
        fit = fitted(*image.shape[:2], longer=self._longer, shorter=self._shorter)
        return Prepared(image.prepare(input_recipe(fit)), picture_mask(fit), fit)

    def infer(self, batch: Sequence[Prepared]) -> list[Answer]:
        """Blocking; one caller at a time. Pictures of one size share a run: padding one to the size of another would
        change what the network sees of it.
        """
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, item in enumerate(batch):
            by_size.setdefault(item.mask.shape, []).append(index)
        answers: dict[int, Answer] = {}
        for alike in by_size.values():
            for start in range(0, len(alike), self._engine.max_batch):
                chunk = alike[start : start + self._engine.max_batch]
                rows: dict[str, list[Row]] = {
                    "pixel_values": [batch[index].tensor for index in chunk],
                    "pixel_mask": [batch[index].mask for index in chunk],
                }
                said = run_rows(self._engine, rows, self._buffers)
                for row, index in enumerate(chunk):
                    one = {name: value[row] for name, value in said.items()}
                    answers[index] = Answer(**one, fit=batch[index].fit)
        return [answers[index] for index in range(len(batch))]

    def postprocess(self, raw: Answer, params: SceneGraphParams) -> SceneGraph:
        """The graph, under the profile that `params` names."""
        return reference_graph(raw, params) if params.reference else serving_graph(raw, params)

    def warm_up(self, params: SceneGraphParams) -> None:
        """A whole picture through every stage at batch 1, and then at the largest batch. Blocking."""
        blank = self.preprocess(np.zeros((480, 640, 3), np.uint8), params)
        for size in sorted({1, self.max_batch}):
            for raw in self.infer([blank] * size):
                self.postprocess(raw, params)

    def close(self) -> None:
        """Give the device back."""
        self._engine.close()


def _check(engine: Engine) -> None:
    given = {spec.name: spec.shape for spec in engine.outputs}
    wanted = {*_COLUMNS, *_MASKS}
    if {spec.name for spec in engine.inputs} != set(_INPUTS) or given.keys() != wanted:
        raise ValueError(f"the graph is no PSGTR: it gives {', '.join(given) or 'nothing'}")
    for name, columns in _COLUMNS.items():
        have = given[name][-1]
        if isinstance(have, int) and have != columns:
            raise ValueError(f"the graph's {name} have {have} columns, not {columns}")
