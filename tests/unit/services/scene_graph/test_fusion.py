"""The trained graph and the rules' graph as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scene_graph.fusion import FusedParams, fuse
from services.scene_graph.model import SceneGraph, SceneGraphParams
from services.scene_graph.predicates import PREDICATE_IDS
from services.scene_graph.rules import Relation
from serving.coco import COCO_PANOPTIC
from serving.yolo import CroppedMask

HEIGHT, WIDTH = 60, 80
Node = tuple[str, float, tuple[int, int, int, int]]
LEFT, RIGHT, BELOW = (0, 0, 30, 30), (40, 0, 70, 30), (0, 40, 80, 60)


def graph(nodes: Sequence[Node], relations: Sequence[tuple[int, str, int, float]] = ()) -> SceneGraph:
    corners = np.array([where for _, _, where in nodes], np.float32).reshape(-1, 4)
    return SceneGraph(
        height=HEIGHT,
        width=WIDTH,
        labels=np.array([COCO_PANOPTIC.index(label) for label, _, _ in nodes], np.int64),
        scores=np.array([score for _, score, _ in nodes], np.float32),
        boxes=(corners / np.array([WIDTH, HEIGHT] * 2)).astype(np.float32),
        masks=tuple(
            CroppedMask(y0, x0, np.ones((y1 - y0, x1 - x0), np.bool_)) for _, _, (x0, y0, x1, y1) in nodes
        ),
        relations=tuple(Relation(s, o, PREDICATE_IDS[p], score) for s, p, o, score in relations),
    )


def told(fused: SceneGraph) -> list[tuple[str, str, str, float]]:
    names = [COCO_PANOPTIC[label] for label in fused.labels]
    return [(names[one.subject], one.predicate, names[one.object], one.score) for one in fused.relations]


def test_the_rules_add_what_the_network_is_silent_about() -> None:
    trained = graph([("person", 0.9, LEFT), ("grass-merged", 0.7, BELOW)], [(0, "standing on", 1, 0.85)])
    geometric = graph(
        [("dog", 0.95, RIGHT), ("person", 0.8, (1, 0, 29, 30))],
        [(1, "in front of", 0, 0.9), (0, "beside", 1, 0.4)],
    )
    fused = fuse(trained, geometric, max_relations=100)
    assert [COCO_PANOPTIC[label] for label in fused.labels] == ["dog", "person", "grass-merged"]
    assert fused.scores == pytest.approx([0.95, 0.9, 0.7])
    assert told(fused) == [
        ("person", "in front of", "dog", 0.9),
        ("person", "standing on", "grass-merged", 0.85),
        ("dog", "beside", "person", 0.4),
    ]
    assert fused.masks[1].full(HEIGHT, WIDTH).sum() == 900  # the network's own mask of the person


def test_where_the_network_has_spoken_the_rules_are_silent() -> None:
    trained = graph([("person", 0.9, LEFT), ("dog", 0.8, RIGHT)], [(1, "looking at", 0, 0.85)])
    geometric = graph([("person", 0.9, LEFT), ("dog", 0.8, RIGHT)], [(0, "touching", 1, 0.99)])
    fused = fuse(trained, geometric, max_relations=100)
    assert told(fused) == [("dog", "looking at", "person", 0.85)]
    assert len(fused.labels) == 2


def test_objects_of_other_classes_or_places_stay_apart() -> None:
    trained = graph([("person", 0.9, LEFT)])
    geometric = graph(
        [("person", 0.9, RIGHT), ("dog", 0.8, LEFT), ("person", 0.7, LEFT), ("person", 0.6, LEFT)]
    )
    fused = fuse(trained, geometric, max_relations=100)
    assert [COCO_PANOPTIC[label] for label in fused.labels] == ["person", "person", "dog", "person"]


def test_graphs_of_two_pictures_are_not_fused() -> None:
    other = graph([])
    wider = SceneGraph(HEIGHT, WIDTH + 1, other.labels, other.scores, other.boxes, (), ())
    with pytest.raises(ValueError, match="different sizes"):
        fuse(other, wider, max_relations=1)


def test_a_request_sets_both_and_each_keeps_its_own_otherwise() -> None:
    params = FusedParams(SceneGraphParams(0.5, 0.8, 100), SceneGraphParams(0.4, 0.3, 100))
    asked = params.asked({"object_threshold": 0.2, "max_relations": 7})
    assert asked.trained == SceneGraphParams(0.2, 0.8, 7)
    assert asked.geometric == SceneGraphParams(0.2, 0.3, 7)
    assert not asked.reference


NODES = st.lists(
    st.tuples(
        st.sampled_from(["person", "dog", "cup"]),
        st.sampled_from([0.5, 0.7, 0.9]),
        st.sampled_from([LEFT, RIGHT, BELOW, (2, 2, 30, 30), (20, 10, 50, 40)]),
    ),
    max_size=6,
)


@given(NODES, NODES, st.randoms(use_true_random=False), st.integers(1, 5))
@settings(max_examples=60)
def test_what_holds_of_any_two_graphs(
    first: list[Node], second: list[Node], random: object, limit: int
) -> None:
    rng = np.random.default_rng(random.randrange(2**32))  # type: ignore[attr-defined]

    def related(nodes: list[Node]) -> list[tuple[int, str, int, float]]:
        pairs = [(s, o) for s in range(len(nodes)) for o in range(len(nodes)) if s != o]
        return [(s, "beside", o, float(rng.random())) for s, o in pairs if rng.random() < 0.3]

    trained, geometric = (graph(nodes, related(nodes)) for nodes in (first, second))
    fused = fuse(trained, geometric, max_relations=limit)
    assert max(len(first), len(second)) <= len(fused.labels) <= len(first) + len(second)
    assert list(fused.scores) == sorted(fused.scores, reverse=True)
    assert len(fused.relations) <= limit
    assert all(one.subject != one.object for one in fused.relations)
    ranks = [(-one.score, one.subject, one.object) for one in fused.relations]
    assert ranks == sorted(ranks)
    words = {(s, p, o) for s, p, o, _ in told(fused)}
    assert words <= {(s, p, o) for one in (trained, geometric) for s, p, o, _ in told(one)}
    alone = fuse(trained, graph([]), max_relations=100)
    assert {(s, p, o, score) for s, p, o, score in told(alone)} == set(told(trained))
