"""From triplets to a graph, as it serves best: things seen in several triplets are one node, orders are fixed.

Every query brings its own subject and object, so that one person who holds a cup and sits on a chair is there twice.
As published, things of one class whose masks overlap by more than half are one thing, and stuff of one class is one.
Then, of triplets that say the same of the same two nodes, the strongest stays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.scene_graph.model import SceneGraph, SceneGraphParams
from services.scene_graph.psgtr.masks import SURE, box_overlaps, draw, overlaps
from services.scene_graph.psgtr.triplets import (
    LEAST_RELATION,
    Answer,
    Side,
    Strongest,
    sides,
    softmax,
    strongest,
)
from services.scene_graph.rules import Relation
from serving.coco import THINGS

SAME = 0.5
"""Masks of one class that overlap by more than this are of one thing."""


def serving_graph(answer: Answer, params: SceneGraphParams) -> SceneGraph:
    """Nodes best first, relations strongest first; equals by query, and by nodes.

    A triplet counts if both its objects reach `object_threshold` and its predicate 0.3, or `relation_threshold` where
    that is lower; its relation is told if it reaches `relation_threshold`. No relation has one node twice.
    """
    subjects, objects = sides(answer)
    # Before the strongest are taken, so that a triplet of nothing takes nobody's place.
    there = np.minimum(subjects.scores, objects.scores) >= np.float32(params.object_threshold)
    relations = softmax(answer.relation_logits) * there[:, None]
    found = strongest(relations)
    floor = min(LEAST_RELATION, params.relation_threshold)
    found = found.where((found.scores >= np.float32(floor)) & there[found.queries])

    # Each query once: its subject, and after all subjects its object.
    queries = np.unique(found.queries)
    entities = _both(subjects, objects, queries)
    members = _merged(entities)
    node_of = np.empty(len(entities.labels), np.int64)
    for node, group in enumerate(members):
        node_of[group] = node
    place = np.searchsorted(queries, found.queries)
    pairs = np.stack([node_of[place], node_of[place + len(queries)]], axis=1)
    bases = np.array([group[0] for group in members], np.intp)
    height, width = answer.fit.height, answer.fit.width
    return SceneGraph(
        height=height,
        width=width,
        labels=entities.labels[bases],
        scores=entities.scores[bases],
        boxes=np.array([_box(entities, group) for group in members], np.float32).reshape(-1, 4),
        masks=tuple(draw(_logits(entities, group), answer.fit) for group in members),
        relations=_relations(found, pairs, params),
    )


def _both(subjects: Side, objects: Side, queries: NDArray[np.intp]) -> Side:
    return Side(
        np.concatenate([subjects.labels[queries], objects.labels[queries]]),
        np.concatenate([subjects.scores[queries], objects.scores[queries]]),
        np.concatenate([subjects.boxes[queries], objects.boxes[queries]]),
        np.concatenate([subjects.masks[queries], objects.masks[queries]]),
    )


def _merged(entities: Side) -> list[NDArray[np.intp]]:
    """Groups of entities that are one node, the best first within and among them."""
    sure = entities.masks > SURE
    left = np.argsort(-entities.scores, kind="stable")
    groups: list[NDArray[np.intp]] = []
    while len(left):
        base = left[0]
        same = entities.labels[left] == entities.labels[base]
        if entities.labels[base] < THINGS:
            kin = left[same]
            overlap = overlaps(sure[base], sure[kin])
            # Of two masks without a sure cell nothing can be said: their boxes decide.
            boxes = box_overlaps(entities.boxes[base], entities.boxes[kin])
            same[same] = np.where(np.isnan(overlap), boxes, overlap) > SAME
            same[0] = True
        groups.append(left[same])
        left = left[~same]
    return groups


def _box(entities: Side, group: NDArray[np.intp]) -> NDArray[np.float32]:
    """A thing is where its best box is, stuff wherever any of its boxes is."""
    if entities.labels[group[0]] < THINGS:
        box: NDArray[np.float32] = entities.boxes[group[0]]
        return box
    boxes = entities.boxes[group]
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def _logits(entities: Side, group: NDArray[np.intp]) -> NDArray[np.float32]:
    if entities.labels[group[0]] < THINGS:
        logits: NDArray[np.float32] = entities.masks[group[0]]
        return logits
    highest: NDArray[np.float32] = entities.masks[group].max(axis=0)
    return highest


def _relations(found: Strongest, pairs: NDArray[np.int64], params: SceneGraphParams) -> tuple[Relation, ...]:
    told: dict[tuple[int, int, int], Relation] = {}
    least = np.float32(params.relation_threshold)
    for (subject, object_), predicate, score in zip(
        pairs.tolist(), found.predicates.tolist(), found.scores, strict=True
    ):
        key = (subject, object_, predicate)
        if subject != object_ and score >= least and key not in told:
            told[key] = Relation(subject, object_, predicate, float(score))
    ranked = sorted(told.values(), key=lambda one: (-one.score, one.subject, one.object, one.predicate_id))
    return tuple(ranked[: params.max_relations])
