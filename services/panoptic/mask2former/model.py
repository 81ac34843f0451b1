"""Mask2Former as a panoptic segmenter: things and stuff, picture in, partition out. Knows no gRPC and no weights store.

Two profiles. `serving`: the processor's own thresholds, segments best first, grids cut from the one partition.
`reference`: what CoLLaVO and MoAI do: the picture squashed to 490 x 490 first, segments in the network's order, and
every grid a partition of its own, made from the same inference.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.panoptic.grid import index_grid
from services.panoptic.mask2former.bilinear import Bilinear, Float
from services.panoptic.mask2former.claims import Claims, settle_claims
from services.panoptic.mask2former.labels import COCO_PANOPTIC, THINGS
from services.panoptic.mask2former.pixels import network_input
from services.panoptic.mask2former.queries import SureQueries, sure_queries
from services.panoptic.model import Instance, PanopticParams, PanopticResult, Segment
from services.panoptic.partition import NOBODY
from services.panoptic.runs import Runs
from serving.coco import UNLABELLED, UNLABELLED_ID
from serving.engine import Engine
from serving.engine.stacking import BatchBuffer
from serving.yolo import CroppedMask

REVISION = 1
"""Raise it when the same picture and weights would give another partition: it is part of the version callers see."""

_CLASSES, _MASKS = "class_queries_logits", "masks_queries_logits"


@dataclass(frozen=True)
class Prepared:
    """A picture ready for the device, (3, h, w) float32, and its own height and width."""

    tensor: Float
    height: int
    width: int


@dataclass(frozen=True)
class Raw:
    """What the network said of one picture: (Q, classes + 1) and (Q, h/4, w/4), float32."""

    class_logits: Float
    mask_logits: Float
    height: int
    width: int


class Mask2FormerModel:
    """A graph as `services.panoptic.export.export_mask2former` writes it, behind an engine.

    `fuse`: label ids all of whose segments become one under `serving`. Raises ValueError when the graph does not fit.
    """

    def __init__(
        self, engine: Engine, *, labels: Sequence[str] = COCO_PANOPTIC, fuse: Collection[int] = ()
    ) -> None:
        self._size = _input_size(engine, len(labels))
        self._input = engine.inputs[0].name
        self._engine = engine
        self._buffer = BatchBuffer()
        self._fuse = frozenset(fuse)
        self.labels = tuple(labels)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input in pixels."""
        return self._size

    def preprocess(self, image: NDArray[np.uint8], params: PanopticParams) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB; only the profile changes what the network sees."""
        height, width = image.shape[:2]
        return Prepared(network_input(image, self._size, squash_first=params.reference), height, width)

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """Blocking; one caller at a time."""
        said = self._engine.run({self._input: self._buffer.stack([item.tensor for item in batch])})
        return [
            Raw(classes, masks, item.height, item.width)
            for classes, masks, item in zip(said[_CLASSES], said[_MASKS], batch, strict=True)
        ]

    def postprocess(self, raw: Raw, params: PanopticParams) -> PanopticResult:
        """Divide the picture among the sure queries; under `reference`, each grid as well."""
        queries = _best(
            sure_queries(raw.class_logits, raw.mask_logits, params.score_threshold), params.max_segments
        )
        claims = self._settle(queries, (raw.height, raw.width), params)
        own_grids = [self._settle(queries, grid, params) for grid in params.grids if params.reference]
        numbers, members = self._number(queries, [claims, *own_grids], params)
        segment_map = numbers[claims.owner.T].T  # Fortran order: masks are read down the columns
        segments = self._segments(queries, segment_map, members, [numbers[grid.owner] for grid in own_grids])
        if params.reference:
            grids = tuple(numbers[grid.owner] for grid in own_grids)
        else:
            grids = tuple(index_grid(segment_map, rows, columns) for rows, columns in params.grids)
        instances = self._instances(queries, raw, params) if params.with_instances else ()
        return PanopticResult(segment_map, segments, grids, instances)

    def warm_up(self) -> None:
        """One real inference at batch 1 and one at the largest batch."""
        blank = np.zeros((*self._size, 3), np.uint8)
        params = PanopticParams(0.001, 0.5, 0.5, 8, ((35, 35),))
        for size in sorted({1, self._engine.max_batch}):
            for raw in self.infer([self.preprocess(blank, params)] * size):
                self.postprocess(raw, params)

    def _settle(self, queries: SureQueries, target: tuple[int, int], params: PanopticParams) -> Claims:
        return settle_claims(
            queries, target, mask_threshold=params.mask_threshold, overlap_threshold=params.overlap_threshold
        )

    def _number(
        self, queries: SureQueries, claims: Sequence[Claims], params: PanopticParams
    ) -> tuple[NDArray[np.uint16], list[int]]:
        """The number of each query's segment, the last entry nobody's; and the query that stands for each number."""
        survivors = sorted({query for claim in claims for query in claim.survivors})
        if not params.reference:
            survivors.sort(key=lambda query: -queries.scores[query])  # a stable sort: equals keep their order
        numbers = np.full(len(queries.scores) + 1, NOBODY, np.uint16)
        members: list[int] = []
        fused: dict[int, int] = {}
        for query in survivors:
            label = int(queries.labels[query])
            if label in fused:
                numbers[query] = fused[label]
                continue
            members.append(query)
            numbers[query] = len(members)
            if label in self._fuse and not params.reference:
                fused[label] = len(members)
        return numbers, members

    def _segments(
        self,
        queries: SureQueries,
        segment_map: NDArray[np.uint16],
        members: Sequence[int],
        grids: Sequence[NDArray[np.uint16]],
    ) -> tuple[Segment, ...]:
        runs = Runs.of(segment_map, len(members) + 1)
        height, width = segment_map.shape
        boxes = (runs.boxes / np.array([width, height] * 2)).tolist()
        shares = (runs.areas / segment_map.size).tolist()
        segments = []
        for number, query in enumerate(members, start=1):
            label = int(queries.labels[query])
            box = tuple(boxes[number])
            if not shares[number]:
                # One that lives in a grid alone has no pixel of the picture: its box is that of its cells.
                box = _tight_box(next(grid for grid in grids if (grid == number).any()) == number)
            segments.append(
                Segment(
                    id=number,
                    number=number,
                    label_id=label,
                    label=self.labels[label],
                    is_thing=label < THINGS,
                    score=float(queries.scores[query]),
                    box=box,
                    area=shares[number],
                )
            )
        if shares[NOBODY]:
            box, rest = tuple(boxes[NOBODY]), shares[NOBODY]
            segments.append(
                Segment(len(members) + 1, NOBODY, UNLABELLED_ID, UNLABELLED, False, 0.0, box, rest)
            )
        return tuple(segments)

    def _instances(self, queries: SureQueries, raw: Raw, params: PanopticParams) -> tuple[Instance, ...]:
        """Every sure query as it was drawn, before its mask was weighted or anyone competed; best first."""
        resize = Bilinear((queries.masks.shape[1], queries.masks.shape[2]), (raw.height, raw.width))
        instances = []
        for query in np.argsort(-queries.scores, kind="stable"):
            drawn = resize(queries.masks[query]) >= np.float32(params.mask_threshold)
            if drawn.any():
                label = int(queries.labels[query])
                score, mask = float(queries.scores[query]), CroppedMask(0, 0, np.asfortranarray(drawn))
                instances.append(Instance(label, self.labels[label], score, _tight_box(drawn), mask))
        return tuple(instances)


def _best(queries: SureQueries, limit: int) -> SureQueries:
    if len(queries.scores) <= limit:
        return queries
    best = np.sort(np.argsort(-queries.scores, kind="stable")[:limit])
    return SureQueries(queries.scores[best], queries.labels[best], queries.masks[best])


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


def _input_size(engine: Engine, classes: int) -> tuple[int, int]:
    outputs = {spec.name: spec.shape for spec in engine.outputs}
    if len(engine.inputs) != 1 or not {_CLASSES, _MASKS} <= outputs.keys():
        raise ValueError(f"the graph is no Mask2Former: it gives {', '.join(outputs) or 'nothing'}")
    scored = outputs[_CLASSES][-1]
    if isinstance(scored, int) and scored != classes + 1:
        raise ValueError(f"the graph has {scored - 1} classes, its labels are {classes}")
    shape = engine.inputs[0].shape
    height, width = shape[2:] if len(shape) == 4 else (None, None)
    if not isinstance(height, int) or not isinstance(width, int):
        raise ValueError(f"the graph does not say its input's size: {engine.inputs[0]}")
    return height, width
