"""What holds of the relations of any scene."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scene_graph.geometry import Scene
from services.scene_graph.predicates import PREDICATES
from services.scene_graph.rules import RULES, Relation, relations
from serving.coco import COCO_80

SIZE = 64  # a power of two: edges are exact in binary, so a mirrored picture measures exactly the same

# Those that rules speak of, and one that none of them names in particular.
NAMES = sorted({name for rule in RULES[:-1] for name in rule.subjects | rule.objects} - set(COCO_80[60:70]))


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Up to eight rectangles, painted over one another."""
    count = draw(st.integers(0, 8))
    canvas = np.full((SIZE, SIZE), -1)
    boxes = np.zeros((count, 4))
    labels = np.zeros(count, np.int64)
    for index in range(count):
        x0, y0 = draw(st.integers(0, SIZE - 2)), draw(st.integers(0, SIZE - 2))
        x1, y1 = draw(st.integers(x0 + 1, SIZE)), draw(st.integers(y0 + 1, SIZE))
        canvas[y0:y1, x0:x1] = index
        boxes[index] = np.array([x0, y0, x1, y1]) / SIZE
        labels[index] = COCO_80.index(draw(st.sampled_from(NAMES)))
    order = draw(st.permutations(range(count)))
    scores = (0.4 + 0.05 * np.arange(count))[np.array(order, int)] if count else np.zeros(0)
    masks = np.stack([canvas == i for i in range(count)]) if count else np.zeros((0, SIZE, SIZE), np.bool_)
    return Scene(labels, scores, boxes, masks)


def renamed(found: tuple[Relation, ...], names: list[int]) -> list[tuple[int, int, int, float]]:
    return sorted((names[r.subject], names[r.object], r.predicate_id, r.score) for r in found)


@settings(max_examples=80, deadline=None)
@given(scenes())
def test_well_formed(scene: Scene) -> None:
    found = relations(scene)
    pairs = [frozenset((r.subject, r.object)) for r in found]
    assert len(pairs) == len(set(pairs)), "two relations between the same two objects"
    for relation in found:
        assert relation.subject != relation.object
        assert 0 <= relation.subject < len(scene)
        assert 0 <= relation.object < len(scene)
        assert relation.predicate == PREDICATES[relation.predicate_id]
        assert 0 < relation.score <= 1
    assert list(found) == sorted(found, key=lambda r: (-r.score, r.subject, r.object))


@settings(max_examples=40, deadline=None)
@given(scenes())
def test_the_same_scene_says_the_same(scene: Scene) -> None:
    copy = Scene(scene.labels.copy(), scene.scores.copy(), scene.boxes.copy(), scene.masks.copy())
    assert relations(scene) == relations(copy)


@settings(max_examples=60, deadline=None)
@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_of_objects_only_changes_indices(scene: Scene, random: object) -> None:
    order = list(range(len(scene)))
    random.shuffle(order)  # type: ignore[attr-defined]
    at = np.array(order, int)
    shuffled = Scene(scene.labels[at], scene.scores[at], scene.boxes[at], scene.masks[at])
    assert renamed(relations(shuffled), order) == renamed(relations(scene), list(range(len(scene))))


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_a_mirrored_picture_says_the_same(scene: Scene) -> None:
    """None of the predicates knows left from right."""
    boxes = scene.boxes.copy()
    boxes[:, 0], boxes[:, 2] = 1 - scene.boxes[:, 2], 1 - scene.boxes[:, 0]
    mirrored = Scene(scene.labels, scene.scores, boxes, scene.masks[:, :, ::-1])
    assert relations(mirrored) == relations(scene)


@settings(max_examples=40, deadline=None)
@given(scenes(), st.floats(0, 1), st.integers(1, 5))
def test_threshold_and_limit_only_shorten(scene: Scene, threshold: float, limit: int) -> None:
    everything = relations(scene)
    kept = tuple(r for r in everything if r.score >= threshold)
    assert relations(scene, threshold=threshold, limit=limit) == kept[:limit]


def test_a_crowd_stays_within_the_limit() -> None:
    """Twenty people in a row before one bus: more pairs than may be said."""
    count = 40
    masks = np.zeros((count, SIZE, 256), np.bool_)
    boxes = np.zeros((count, 4))
    for index in range(count):
        x0 = 4 + index * 6
        masks[index, 10:60, x0 : x0 + 5] = True
        boxes[index] = [x0 / 256, 10 / SIZE, (x0 + 5) / 256, 60 / SIZE]
    scene = Scene(np.zeros(count, np.int64), np.linspace(0.9, 0.5, count), boxes, masks)
    assert len(relations(scene)) == count - 1
    assert len(relations(scene, limit=7)) == 7
