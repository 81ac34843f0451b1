"""EoMT as a panoptic segmenter: things and stuff, picture in, partition out. Knows no gRPC and no weights store.

It has no published system behind it here, so it answers under the serving profile only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.panoptic.eomt.claims import Claims, SureQueries, settle_claims, sure_queries
from services.panoptic.eomt.pixels import Float, network_input
from services.panoptic.grid import index_grid
from services.panoptic.mask2former.labels import COCO_PANOPTIC, THINGS
from services.panoptic.model import Instance, PanopticParams, PanopticResult, Segment
from services.panoptic.partition import NOBODY
from serving.coco import UNLABELLED, UNLABELLED_ID
from serving.engine import Engine
from serving.engine.stacking import BatchBuffer
from serving.yolo import CroppedMask

REVISION = 1
"""Raise it when the same picture and weights would give another partition: it is part of the version callers see."""

_CLASSES, _MASKS = "class_queries_logits", "masks_queries_logits"


@dataclass(frozen=True)
class Prepared:
    """A picture ready for the device, (3, side, side) float32, and its own height and width."""

    tensor: Float
    height: int
    width: int


@dataclass(frozen=True)
class Raw:
    """What the network said of one picture: (Q, classes + 1) and (Q, side/4, side/4), float32."""

    class_logits: Float
    mask_logits: Float
    height: int
    width: int


class EomtModel:
    """A graph as `services.panoptic.eomt.export` writes it, behind an engine.

    `fuse`: label ids all of whose segments become one. Raises ValueError when the graph does not fit.
    """

    def __init__(
        self, engine: Engine, *, labels: Sequence[str] = COCO_PANOPTIC, fuse: Collection[int] = ()
    ) -> None:
        self._side = _input_side(engine, len(labels))
        self._input = engine.inputs[0].name
        self._engine = engine
        self._buffer = BatchBuffer()
        self._fuse = frozenset(fuse)
        self.labels = tuple(labels)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input in pixels."""
        return self._side, self._side

    def preprocess(self, image: NDArray[np.uint8], params: PanopticParams) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB. Nothing in `params` changes what the network sees."""
        del params
        height, width = image.shape[:2]
        return Prepared(network_input(image, self._side), height, width)

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """Blocking; one caller at a time."""
        said = self._engine.run({self._input: self._buffer.stack([item.tensor for item in batch])})
        return [
            Raw(classes, masks, item.height, item.width)
            for classes, masks, item in zip(said[_CLASSES], said[_MASKS], batch, strict=True)
        ]

    def postprocess(self, raw: Raw, params: PanopticParams) -> PanopticResult:
        """Divide the picture among the sure queries, and reduce it to grids."""
        queries = sure_queries(raw.class_logits, raw.mask_logits, params.score_threshold)
        queries = queries.best(params.max_segments)
        claims = settle_claims(
            queries,
            (raw.height, raw.width),
            side=self._side,
            mask_threshold=params.mask_threshold,
            overlap_threshold=params.overlap_threshold,
        )
        numbers, members = self._number(queries, claims)
        segment_map = np.asfortranarray(numbers[claims.owner])
        return PanopticResult(
            segment_map,
            self._segments(queries, segment_map, members),
            tuple(index_grid(segment_map, rows, columns) for rows, columns in params.grids),
            self._instances(queries, claims) if params.with_instances else (),
        )

    def warm_up(self) -> None:
        """One real inference at batch 1 and one at the largest batch."""
        params = PanopticParams(0.001, 0.5, 0.5, 8, ((35, 35),))
        blank = self.preprocess(np.zeros((self._side, self._side, 3), np.uint8), params)
        for size in sorted({1, self._engine.max_batch}):
            for raw in self.infer([blank] * size):
                self.postprocess(raw, params)

    def _number(self, queries: SureQueries, claims: Claims) -> tuple[NDArray[np.uint16], list[int]]:
        """The number of each query's segment, the last entry nobody's; the query that stands for each; best first."""
        numbers = np.full(len(queries.scores) + 1, NOBODY, np.uint16)
        members: list[int] = []
        fused: dict[int, int] = {}
        # A stable sort: equals keep the network's order.
        for query in sorted(claims.survivors, key=lambda one: -queries.scores[one]):
            label = int(queries.labels[query])
            if label not in fused:
                members.append(query)
            numbers[query] = fused.get(label, len(members))
            if label in self._fuse:
                fused[label] = int(numbers[query])
        return numbers, members

    def _segments(
        self, queries: SureQueries, segment_map: NDArray[np.uint16], members: Sequence[int]
    ) -> tuple[Segment, ...]:
        shares = np.bincount(segment_map.ravel(order="K"), minlength=len(members) + 1) / segment_map.size
        segments = []
        for number, query in enumerate(members, start=1):
            label = int(queries.labels[query])
            segments.append(
                Segment(
                    id=number,
                    number=number,
                    label_id=label,
                    label=self.labels[label],
                    is_thing=label < THINGS,
                    score=float(queries.scores[query]),
                    box=_tight_box(segment_map == number),
                    area=float(shares[number]),
                )
            )
        if rest := float(shares[NOBODY]):
            box = _tight_box(segment_map == NOBODY)
            segments.append(
                Segment(len(members) + 1, NOBODY, UNLABELLED_ID, UNLABELLED, False, 0.0, box, rest)
            )
        return tuple(segments)

    def _instances(self, queries: SureQueries, claims: Claims) -> tuple[Instance, ...]:
        """Every sure query as it was drawn, before anyone competed; best first."""
        instances = []
        for query in np.argsort(-queries.scores, kind="stable"):
            drawn = claims.sure[query]
            if drawn.any():
                label = int(queries.labels[query])
                score, mask = float(queries.scores[query]), CroppedMask(0, 0, np.asfortranarray(drawn))
                instances.append(Instance(label, self.labels[label], score, _tight_box(drawn), mask))
        return tuple(instances)


def _tight_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """xyxy, normalised, of a mask with at least one pixel."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


def _input_side(engine: Engine, classes: int) -> int:
    outputs = {spec.name: spec.shape for spec in engine.outputs}
    if len(engine.inputs) != 1 or not {_CLASSES, _MASKS} <= outputs.keys():
        raise ValueError(f"the graph is no EoMT: it gives {', '.join(outputs) or 'nothing'}")
    scored = outputs[_CLASSES][-1]
    if isinstance(scored, int) and scored != classes + 1:
        raise ValueError(f"the graph has {scored - 1} classes, its labels are {classes}")
    shape = engine.inputs[0].shape
    side = shape[-1]
    if len(shape) != 4 or not isinstance(side, int) or shape[-2] != side:
        raise ValueError(f"the graph's input is no square of a fixed size: {engine.inputs[0]}")
    return side
