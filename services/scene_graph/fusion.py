"""The trained network and the rules together: what the network saw stands, the rules add what it is silent about.

The network knows 133 classes and all 56 predicates, but reports only objects that it relates; the rules see every thing
of 80 classes and say little. Of two objects that the network relates, whichever way round, the rules say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.scene_graph.model import Prepared as GeometricPrepared
from services.scene_graph.model import Raw as GeometricRaw
from services.scene_graph.model import SceneGraph, SceneGraphParams, on_grid
from services.scene_graph.psgtr.masks import box_overlaps, overlaps
from services.scene_graph.psgtr.model import Prepared as TrainedPrepared
from services.scene_graph.psgtr.triplets import Answer
from services.scene_graph.relater import Relater
from services.scene_graph.rules import Relation
from serving.preprocess import Picture

FUSION_VERSION = "fused-1"
"""Changes whenever the same two graphs could be fused in another way."""

SAME = 0.5
"""Objects of one class whose masks overlap by more than this are one."""


@dataclass(frozen=True)
class FusedParams:
    """Each backend keeps its own thresholds where a request sets none."""

    trained: SceneGraphParams
    geometric: SceneGraphParams

    @property
    def reference(self) -> bool:
        """Whether the published system is followed: then the network answers alone."""
        return self.trained.reference

    def asked(self, changes: Mapping[str, Any]) -> FusedParams:
        """These, but for what a request sets, in both."""
        return FusedParams(self.trained.asked(changes), self.geometric.asked(changes))


@dataclass(frozen=True)
class Prepared:
    """A picture ready for both networks, or for the trained one alone."""

    trained: TrainedPrepared
    geometric: GeometricPrepared | None

    @property
    def parts(self) -> tuple[TrainedPrepared | GeometricPrepared, ...]:
        """What each network is given, in the order in which they run."""
        return (self.trained,) if self.geometric is None else (self.trained, self.geometric)


Raw = tuple[Answer, GeometricRaw | None]


class FusedModel:
    """Both backends on the same pictures; closes both."""

    def __init__(
        self,
        trained: Relater[SceneGraphParams, TrainedPrepared, Answer],
        geometric: Relater[SceneGraphParams, GeometricPrepared, GeometricRaw],
    ) -> None:
        self._trained = trained
        self._geometric = geometric

    @property
    def max_batch(self) -> int:
        """The most pictures of one `infer`."""
        return min(self._trained.max_batch, self._geometric.max_batch)

    def preprocess(self, image: Picture, params: FusedParams) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB."""
        trained = self._trained.preprocess(image, params.trained)
        return Prepared(
            trained, None if params.reference else self._geometric.preprocess(image, params.geometric)
        )

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """Both networks, one after the other; blocking, one caller at a time."""
        trained = self._trained.infer([item.trained for item in batch])
        wanted = [item.geometric for item in batch if item.geometric is not None]
        geometric = iter(self._geometric.infer(wanted) if wanted else ())
        return [
            (answer, None if item.geometric is None else next(geometric))
            for answer, item in zip(trained, batch, strict=True)
        ]

    def postprocess(self, raw: Raw, params: FusedParams) -> SceneGraph:
        """Both graphs, fused."""
        answer, geometric = raw
        graph = self._trained.postprocess(answer, params.trained)
        if geometric is None:
            return graph
        return fuse(
            graph,
            self._geometric.postprocess(geometric, params.geometric),
            max_relations=params.trained.max_relations,
        )

    def warm_up(self, params: FusedParams) -> None:
        """Each backend, at batch 1 and at the largest batch. Blocking."""
        self._trained.warm_up(params.trained)
        self._geometric.warm_up(params.geometric)

    def close(self) -> None:
        """Give both devices back."""
        self._trained.close()
        self._geometric.close()


def fuse(trained: SceneGraph, geometric: SceneGraph, *, max_relations: int) -> SceneGraph:
    """One graph of the same picture: nodes best first, relations strongest first, ties by indices.

    An object of the rules that the network saw too is the network's. Raises ValueError for graphs of two pictures.
    """
    if (trained.height, trained.width) != (geometric.height, geometric.width):
        raise ValueError("the two graphs are of pictures of different sizes")
    place = _places(trained, geometric)
    new = place >= len(trained.labels)
    related = {frozenset((one.subject, one.object)) for one in trained.relations}
    relations = list(trained.relations)
    for one in geometric.relations:
        subject, object_ = int(place[one.subject]), int(place[one.object])
        if subject != object_ and frozenset((subject, object_)) not in related:
            relations.append(replace(one, subject=subject, object=object_))
    scores = np.concatenate([trained.scores, geometric.scores[new]])
    order = np.argsort(-scores, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    masks = [*trained.masks, *(mask for mask, is_new in zip(geometric.masks, new, strict=True) if is_new)]
    return SceneGraph(
        height=trained.height,
        width=trained.width,
        labels=np.concatenate([trained.labels, geometric.labels[new]])[order],
        scores=scores[order],
        boxes=np.concatenate([trained.boxes, geometric.boxes[new]])[order],
        masks=tuple(masks[index] for index in order),
        relations=_ranked(relations, rank)[:max_relations],
    )


def _places(trained: SceneGraph, geometric: SceneGraph) -> NDArray[np.int64]:
    """(N,): which node each object of the rules is; those that the network did not see come after its own, in order."""
    ours = on_grid(trained.masks, trained.height, trained.width)
    theirs = on_grid(geometric.masks, geometric.height, geometric.width)
    free = np.ones(len(ours), np.bool_)
    place = np.empty(len(theirs), np.int64)
    following = len(ours)
    for index, label in enumerate(geometric.labels):
        kin = np.flatnonzero(free & (trained.labels == label))
        overlap = overlaps(theirs[index], ours[kin])
        boxes = box_overlaps(geometric.boxes[index], trained.boxes[kin])
        overlap = np.where(np.isnan(overlap), boxes, overlap)
        if len(kin) and overlap.max() > SAME:
            place[index] = kin[overlap.argmax()]
            free[place[index]] = False
        else:
            place[index] = following
            following += 1
    return place


def _ranked(relations: Sequence[Relation], rank: NDArray[np.int64]) -> tuple[Relation, ...]:
    moved = [replace(one, subject=int(rank[one.subject]), object=int(rank[one.object])) for one in relations]
    return tuple(sorted(moved, key=lambda one: (-one.score, one.subject, one.object, one.predicate_id)))
