"""EoMT as a panoptic segmenter: things and stuff, picture in, partition out. Knows no gRPC and no weights store.

It has no published system behind it here, so it answers under the serving profile only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from services.panoptic.eomt.claims import settle_claims, sure_queries
from services.panoptic.eomt.pixels import input_recipe, network_input
from services.panoptic.grid import index_grid
from services.panoptic.model import PanopticParams, PanopticResult
from services.panoptic.query_network import Prepared, QueryNetwork, Raw
from services.panoptic.query_segments import Said, best_first, list_instances, list_segments, number_segments
from serving.coco import COCO_PANOPTIC
from serving.engine import Engine
from serving.preprocess import Picture

REVISION = 1
"""Raise it when the same picture and weights would give another partition: it is part of the version callers see."""


class EomtModel:
    """A graph as `services.panoptic.eomt.export` writes it, behind an engine.

    `fuse`: label ids all of whose segments become one. Raises ValueError when the graph does not fit.
    """

    def __init__(
        self, engine: Engine, *, labels: Sequence[str] = COCO_PANOPTIC, fuse: Collection[int] = ()
    ) -> None:
        self._network = QueryNetwork(engine, kind="EoMT", classes=len(labels))
        height, self._side = self._network.input_size
        if height != self._side:
            raise ValueError(f"the graph's input is no square: {engine.inputs[0]}")
        self._fuse = frozenset(fuse)
        self.labels = tuple(labels)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input in pixels."""
        return self._network.input_size

    def preprocess(self, image: Picture, params: PanopticParams) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB. Nothing in `params` changes what the network sees."""
        del params
        height, width = image.shape[:2]
        if isinstance(image, np.ndarray):
            return Prepared(network_input(image, self._side), height, width)
        return Prepared(image.prepare(input_recipe(height, width, self._side)), height, width)

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """Blocking; one caller at a time."""
        return self._network.infer(batch)

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
        said = Said(self.labels, queries.labels, queries.scores)
        numbering = number_segments(said, best_first(said, claims.survivors), fuse=self._fuse)
        segment_map = numbering.numbers.take(
            claims.owner.T
        ).T  # Fortran order: masks are read down the columns
        return PanopticResult(
            segment_map,
            list_segments(said, numbering, segment_map),
            tuple(index_grid(segment_map, rows, columns) for rows, columns in params.grids),
            list_instances(said, claims.sure.__getitem__) if params.with_instances else (),
        )

    def warm_up(self) -> None:
        """One real inference at batch 1 and one at the largest batch."""
        params = PanopticParams(0.001, 0.5, 0.5, 8, ((35, 35),))
        blank = self.preprocess(np.zeros((self._side, self._side, 3), np.uint8), params)
        for size in self._network.warm_up_sizes:
            for raw in self.infer([blank] * size):
                self.postprocess(raw, params)
