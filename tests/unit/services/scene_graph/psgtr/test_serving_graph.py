"""From made-up triplets to a graph: merging, suppression, thresholds, orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scene_graph.model import SceneGraph, SceneGraphParams
from services.scene_graph.psgtr.model import SERVING
from services.scene_graph.psgtr.pixels import Fit
from services.scene_graph.psgtr.serving_graph import serving_graph
from services.scene_graph.psgtr.triplets import Answer, softmax, strongest
from serving.coco import COCO_PANOPTIC

Make = Callable[[Sequence[Any]], Answer]
LEFT, RIGHT, BELOW = (0, 0, 8, 10), (10, 0, 18, 10), (0, 12, 20, 20)
MAN, CHILD = ("person", 0.95, LEFT), ("person", 0.9, RIGHT)
GRASS, CUP = ("grass-merged", 0.9, BELOW), ("cup", 0.8, (6, 4, 9, 7))


def told(graph: SceneGraph) -> list[tuple[str, str, str]]:
    names = [COCO_PANOPTIC[label] for label in graph.labels]
    return [(names[one.subject], one.predicate, names[one.object]) for one in graph.relations]


def test_one_person_in_three_triplets_is_one_node(answer: Make) -> None:
    again = ("person", 0.7, (0, 1, 8, 10))
    graph = serving_graph(
        answer(
            [
                (MAN, "standing on", 0.9, GRASS),
                (again, "holding", 0.95, CUP),
                (CHILD, "looking at", 0.85, again),
                (CHILD, "standing on", 0.88, ("grass-merged", 0.6, (12, 14, 18, 20))),
            ]
        ),
        SERVING,
    )
    assert [COCO_PANOPTIC[label] for label in graph.labels] == ["person", "person", "grass-merged", "cup"]
    assert graph.scores == pytest.approx([0.95, 0.9, 0.9, 0.8], abs=1e-4)
    assert told(graph) == [
        ("person", "holding", "cup"),
        ("person", "standing on", "grass-merged"),
        ("person", "standing on", "grass-merged"),
        ("person", "looking at", "person"),
    ]
    assert [(one.subject, one.object) for one in graph.relations] == [(0, 3), (0, 2), (1, 2), (1, 0)]
    assert [one.score for one in graph.relations] == pytest.approx([0.95, 0.9, 0.88, 0.85], abs=1e-4)
    # Boxes and masks at the size of the picture, 400 x 200.
    assert graph.boxes[0] == pytest.approx([0, 0, 0.4, 0.5])
    man = graph.masks[0].full(200, 400)
    assert man[5:95, 5:155].all()
    assert not man[105:].any()
    assert not man[:, 170:].any()
    assert graph.boxes[2] == pytest.approx([0, 0.6, 1, 1])


def test_the_strongest_of_triplets_that_say_the_same_stays(answer: Make) -> None:
    again = ("person", 0.94, (0, 0, 7, 10))
    graph = serving_graph(
        answer([(MAN, "on", 0.85, GRASS), (again, "on", 0.95, GRASS), (MAN, "walking on", 0.82, GRASS)]),
        SERVING,
    )
    assert told(graph) == [("person", "on", "grass-merged"), ("person", "walking on", "grass-merged")]
    assert graph.relations[0].score == pytest.approx(0.95, abs=1e-4)


def test_nothing_is_related_to_itself(answer: Make) -> None:
    graph = serving_graph(answer([(MAN, "beside", 0.95, ("person", 0.8, LEFT))]), SERVING)
    assert len(graph.labels) == 1
    assert graph.relations == ()


@pytest.mark.parametrize(
    ("params", "objects", "relations"),
    [
        (SERVING, 4, 1),
        (replace(SERVING, relation_threshold=0.4), 4, 2),
        (replace(SERVING, relation_threshold=0.1), 5, 3),
        (replace(SERVING, relation_threshold=0.1, max_relations=2), 5, 2),
        (replace(SERVING, object_threshold=0.85), 2, 1),
        (replace(SERVING, object_threshold=0.99), 0, 0),
    ],
)
def test_thresholds(answer: Make, params: SceneGraphParams, objects: int, relations: int) -> None:
    triplets = [
        (MAN, "standing on", 0.9, GRASS),
        (CHILD, "holding", 0.5, CUP),
        (("dog", 0.84, BELOW), "on", 0.2, GRASS),
    ]
    graph = serving_graph(answer(triplets), params)
    assert (len(graph.labels), len(graph.relations)) == (objects, relations)


def test_things_without_a_sure_cell_are_told_apart_by_their_boxes(answer: Make) -> None:
    made = answer([(MAN, "beside", 0.9, CHILD), (MAN, "on", 0.9, GRASS), (CHILD, "on", 0.9, GRASS)])
    empty = np.full_like(made.subject_masks, -9)
    graph = serving_graph(replace(made, subject_masks=empty, object_masks=empty), SERVING)
    assert [COCO_PANOPTIC[label] for label in graph.labels] == ["person", "person", "grass-merged"]
    assert [mask.pixels.size for mask in graph.masks] == [0, 0, 0]


def test_the_strongest_pairs_of_query_and_predicate_in_a_fixed_order() -> None:
    table = np.zeros((2, 57), np.float32)
    table[0, 0] = 0.9  # "no relation" is no predicate
    table[0, 5], table[1, 3], table[1, 9], table[1, 56] = 0.05, 0.3, 0.05, 0.6
    best = strongest(table, 4)
    assert list(zip(best.queries.tolist(), best.predicates.tolist(), strict=True)) == [
        (1, 55),
        (1, 2),
        (0, 4),
        (1, 8),
    ]


def test_softmax_of_large_logits() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert softmax(np.array([[1e4, 0, 1e4]], np.float32)).tolist() == [[0.5, 0, 0.5]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(0, 10), st.booleans())
@settings(max_examples=50, deadline=None)
def test_what_holds_of_any_answer(seed: int, queries: int, threshold: int, empty: bool) -> None:
    raw = random_answer(np.random.default_rng(seed), queries, empty=empty)
    params = SceneGraphParams(0.3, threshold / 10, 1 + seed % 20)
    graph = serving_graph(raw, params)
    assert list(graph.scores) == sorted(graph.scores, reverse=True)
    assert all(score >= np.float32(0.3) for score in graph.scores)
    assert ((graph.boxes >= 0) & (graph.boxes <= 1)).all()
    assert all(mask.full(37, 53).shape == (37, 53) for mask in graph.masks)
    assert len(graph.relations) <= params.max_relations
    keys = [(one.subject, one.object, one.predicate_id) for one in graph.relations]
    assert len(keys) == len(set(keys))
    assert all(one.subject != one.object for one in graph.relations)
    assert all(max(one.subject, one.object) < len(graph.labels) for one in graph.relations)
    assert all(one.score >= np.float32(params.relation_threshold) for one in graph.relations)
    ranks = [(-one.score, one.subject, one.object, one.predicate_id) for one in graph.relations]
    assert ranks == sorted(ranks)
    stuff = [label for label in graph.labels if label >= 80]
    assert len(stuff) == len(set(stuff))
    # The same answer gives the same graph, and its queries in another order the same one but for equals.
    again = serving_graph(raw, params)
    assert again.relations == graph.relations


def random_answer(rng: np.random.Generator, queries: int, *, empty: bool) -> Answer:
    def classes() -> np.ndarray:
        logits = rng.normal(size=(queries, 134)).astype(np.float32)
        few = [0, 3, 16, 90, 119, 133]
        logits[np.arange(queries), rng.choice(few, queries)] += rng.choice([3, 6, 9], queries)
        return logits

    relations = rng.normal(size=(queries, 57)).astype(np.float32)
    relations[np.arange(queries), rng.choice([0, 1, 3, 22], queries)] += rng.choice([3, 6, 9], queries)
    masks = rng.normal(size=(2, queries, 8, 16)).astype(np.float32) * 3
    masks += np.repeat(np.repeat(rng.choice([-9, 9], (2, queries, 2, 4)), 4, axis=2), 4, axis=3)
    if empty:
        masks -= 40
    return Answer(
        classes(),
        classes(),
        relations,
        rng.random((queries, 4)).astype(np.float32),
        rng.random((queries, 4)).astype(np.float32),
        masks[0],
        masks[1],
        Fit(37, 53, 29, 61, 32, 64),
    )
