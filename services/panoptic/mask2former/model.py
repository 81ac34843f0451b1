"""Mask2Former as a panoptic segmenter: things and stuff, picture in, partition out. Knows no gRPC and no weights store.

Two profiles. `serving`: the processor's own thresholds, segments best first, grids cut from the one partition.
`reference`: what CoLLaVO and MoAI do: the picture squashed to 490 x 490 first, segments in the network's order, and
every grid a partition of its own, made from the same inference.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from services.panoptic.grid import index_grid
from services.panoptic.mask2former.bilinear import Bilinear
from services.panoptic.mask2former.claims import Claims, settle_claims
from services.panoptic.mask2former.pixels import input_recipe, network_input
from services.panoptic.mask2former.queries import SureQueries, sure_queries
from services.panoptic.model import Instance, PanopticParams, PanopticResult
from services.panoptic.query_network import Prepared, QueryNetwork, Raw
from services.panoptic.query_segments import Said, best_first, list_instances, list_segments, number_segments
from serving.coco import COCO_PANOPTIC
from serving.engine import Engine
from serving.preprocess import Picture, exact

REVISION = 1
"""Raise it when the same picture and weights would give another partition: it is part of the version callers see."""


class Mask2FormerModel:
    """A graph as `services.panoptic.export.export_mask2former` writes it, behind an engine.

    `fuse`: label ids all of whose segments become one under `serving`. Raises ValueError when the graph does not fit.
    """

    def __init__(
        self, engine: Engine, *, labels: Sequence[str] = COCO_PANOPTIC, fuse: Collection[int] = ()
    ) -> None:
        self._network = QueryNetwork(engine, kind="Mask2Former", classes=len(labels))
        self._fuse = frozenset(fuse)
        self.labels = tuple(labels)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input in pixels."""
        return self._network.input_size

    def preprocess(self, image: Picture, params: PanopticParams) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB; only the profile changes what the network sees."""
        height, width = image.shape[:2]
        if params.reference:
            return Prepared(network_input(exact(image), self.input_size, squash_first=True), height, width)
        if isinstance(image, np.ndarray):
            return Prepared(network_input(image, self.input_size), height, width)
        return Prepared(image.prepare(input_recipe(self.input_size)), height, width)

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """Blocking; one caller at a time."""
        return self._network.infer(batch)

    def postprocess(self, raw: Raw, params: PanopticParams) -> PanopticResult:
        """Divide the picture among the sure queries; under `reference`, each grid as well."""
        queries = _best(
            sure_queries(raw.class_logits, raw.mask_logits, params.score_threshold), params.max_segments
        )
        claims = _settle(queries, (raw.height, raw.width), params)
        own_grids = [_settle(queries, grid, params) for grid in params.grids if params.reference]
        survivors = {query for claim in (claims, *own_grids) for query in claim.survivors}
        said = Said(self.labels, queries.labels, queries.scores)
        if params.reference:
            numbering = number_segments(said, sorted(survivors))
        else:
            numbering = number_segments(said, best_first(said, survivors), fuse=self._fuse)
        numbers = numbering.numbers
        segment_map = numbers.take(claims.owner.T).T  # Fortran order: masks are read down the columns
        if params.reference:
            grids = tuple(numbers[grid.owner] for grid in own_grids)
        else:
            grids = tuple(index_grid(segment_map, rows, columns) for rows, columns in params.grids)
        segments = list_segments(said, numbering, segment_map, grids)
        instances = self._instances(said, queries, raw, params) if params.with_instances else ()
        return PanopticResult(segment_map, segments, grids, instances)

    def warm_up(self) -> None:
        """One real inference at batch 1 and one at the largest batch."""
        blank = np.zeros((*self.input_size, 3), np.uint8)
        params = PanopticParams(0.001, 0.5, 0.5, 8, ((35, 35),))
        for size in self._network.warm_up_sizes:
            for raw in self.infer([self.preprocess(blank, params)] * size):
                self.postprocess(raw, params)

    def _instances(
        self, said: Said, queries: SureQueries, raw: Raw, params: PanopticParams
    ) -> tuple[Instance, ...]:
        """Every sure query as it was drawn, before its mask was weighted or anyone competed; best first."""
        resize = Bilinear((queries.masks.shape[1], queries.masks.shape[2]), (raw.height, raw.width))
        return list_instances(
            said, lambda query: resize(queries.masks[query]) >= np.float32(params.mask_threshold)
        )


def _settle(queries: SureQueries, target: tuple[int, int], params: PanopticParams) -> Claims:
    return settle_claims(
        queries, target, mask_threshold=params.mask_threshold, overlap_threshold=params.overlap_threshold
    )


def _best(queries: SureQueries, limit: int) -> SureQueries:
    if len(queries.scores) <= limit:
        return queries
    best = np.sort(np.argsort(-queries.scores, kind="stable")[:limit])
    return SureQueries(queries.scores[best], queries.labels[best], queries.masks[best])
