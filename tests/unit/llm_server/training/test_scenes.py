"""Scenes are plausible, numbered as the gateway numbers, and the same for the same seed everywhere."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.training.plausible import GEOMETRIC, PREDICATES
from llm_server.training.scenes import Scene, make_scene, scene_rng, scenes

seeds = st.integers(min_value=0, max_value=10**6)


def scene(seed: int) -> Scene:
    return make_scene(scene_rng("train", seed, 0))


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_boxes_lie_in_the_picture_with_two_decimals(seed: int) -> None:
    for seen in scene(seed).objects:
        x0, y0, x1, y1 = seen.box
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        assert all(round(value, 2) == value for value in seen.box)
        assert 0 < seen.area <= (x1 - x0) * (y1 - y0)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_objects_stand_class_by_class_largest_first_and_are_numbered_so(seed: int) -> None:
    objects = scene(seed).objects
    seen: Counter[str] = Counter()
    for one in objects:
        seen[one.name] += 1
        assert one.number == seen[one.name]
    names = [one.name for one in objects]
    assert len({name for i, name in enumerate(names) if i == 0 or names[i - 1] != name}) == sum(
        i == 0 or names[i - 1] != name for i, name in enumerate(names)
    )
    firsts = [one.area for one in objects if one.number == 1]
    assert firsts == sorted(firsts, reverse=True)
    for name in seen:
        areas = [one.area for one in objects if one.name == name]
        assert areas == sorted(areas, reverse=True)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_relations_join_two_objects_in_known_words_and_lines_do_not_repeat(seed: int) -> None:
    drawn = scene(seed)
    pairs = [(r.subject, r.object) for r in drawn.relations]
    assert len(pairs) == len(set(pairs))
    for relation in drawn.relations:
        assert relation.subject != relation.object
        assert relation.predicate in PREDICATES
        assert max(relation.subject, relation.object) < len(drawn.objects)
    assert len(set(drawn.lines)) == len(drawn.lines)
    assert all(line and ", " not in line for line in drawn.lines)


def test_the_vocabulary_of_predicates_is_the_published_one() -> None:
    assert len(set(PREDICATES)) == 56
    assert set(GEOMETRIC) <= set(PREDICATES)


def test_a_stream_depends_on_split_and_seed_and_on_nothing_else() -> None:
    assert scenes("train", 7, 5) == scenes("train", 7, 9)[:5]
    assert scenes("train", 7, 5) != scenes("train", 8, 5)
    assert scenes("train", 7, 5) != scenes("heldout", 7, 5)


def test_counts_of_zero_to_five_and_scenes_of_every_size_occur() -> None:
    drawn = scenes("train", 3, 400)
    assert {len(one.objects) for one in drawn} >= set(range(13))
    most = Counter(max(one.counts().values(), default=0) for one in drawn)
    assert all(most[n] > 5 for n in range(6))
    assert 0.2 < sum(not one.lines for one in drawn) / len(drawn) < 0.5
