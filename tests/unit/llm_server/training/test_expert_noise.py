"""Noise is seeded on its own, leaves a scene that is listed as the gateway lists, and does what its rates say."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.training import object_questions, vl_questions
from llm_server.training.expert_noise import (
    NONE,
    ExpertNoise,
    listed_objects,
    noise_rng,
    noisy,
    noisy_scene_stream,
)
from llm_server.training.question import draw_questions
from llm_server.training.scenes import Scene, scene_stream, scenes
from llm_server.training.vocabulary import STUFF, THINGS

LOUD = ExpertNoise(0.3, 0.3, 0.3, 0.2, 0.3, 0.3, 0.3, 0.3)
SCENES = scenes("train", 7, 150)
seeds = st.integers(min_value=0, max_value=10**6)


def only(**rates: float) -> list[Scene]:
    noise = replace(NONE, **rates)
    return [noisy(scene, noise, noise_rng("train", 7, i)) for i, scene in enumerate(SCENES)]


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_a_noisy_scene_is_a_scene(seed: int) -> None:
    _, scene = next(noisy_scene_stream("train", seed, LOUD))
    counts: Counter[str] = Counter()
    for one in scene.objects:
        counts[one.name] += 1
        assert one.number == counts[one.name]
        assert one.name in THINGS + STUFF
        x0, y0, x1, y1 = one.box
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        assert all(round(value, 2) == value for value in one.box)
        assert 0 < one.area <= (x1 - x0) * (y1 - y0) + 1e-9
    assert listed_objects(list(scene.objects)) == (list(range(len(scene.objects))), scene.objects)
    for relation in scene.relations:
        assert relation.subject != relation.object
        assert {relation.subject, relation.object} <= set(range(len(scene.objects)))
    assert all(line == line.strip() and line for line in scene.lines)
    assert len(set(scene.lines)) == len(scene.lines)
    families = object_questions.FAMILIES + vl_questions.FAMILIES
    assert all(q.answer for q in draw_questions(random.Random(1), scene, families, 8))


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_no_noise_changes_nothing(seed: int) -> None:
    (rng, scene), (noise_free_rng, same) = (
        next(scene_stream("heldout", seed)),
        next(noisy_scene_stream("heldout", seed, NONE)),
    )
    assert same.objects == tuple(
        replace(o, area=s.area) for o, s in zip(scene.objects, same.objects, strict=True)
    )
    assert (same.relations, same.lines) == (scene.relations, scene.lines)
    assert rng.random() == noise_free_rng.random()


def test_noise_has_a_seed_of_its_own_and_does_not_touch_the_scene_s() -> None:
    def drawn(noise_seed: int) -> list[tuple[float, Scene]]:
        stream = noisy_scene_stream("train", 3, LOUD, start=5, noise_seed=noise_seed)
        return [(rng.random(), scene) for rng, scene in islice(stream, 10)]

    assert drawn(1) == drawn(1)
    assert [scene for _, scene in drawn(1)] != [scene for _, scene in drawn(2)]
    assert [roll for roll, _ in drawn(1)] == [roll for roll, _ in drawn(2)]
    later = list(islice(noisy_scene_stream("train", 3, LOUD, start=8, noise_seed=1), 1))
    assert later[0][1] == drawn(1)[3][1]


def test_objects_are_missed_the_small_ones_more_often() -> None:
    before = [o for s in SCENES for o in s.objects]
    large = sum(o.area >= 0.1 for o in before)
    after = [o for s in only(missed=0.2) for o in s.objects]
    kept_large = sum(o.area >= 0.1 for o in after)
    assert 0.7 < kept_large / large < 0.9
    small = (len(after) - kept_large) / (len(before) - large)
    assert small < kept_large / large - 0.1


def test_doubles_add_and_misnaming_renames_within_the_category() -> None:
    assert sum(len(s.objects) for s in only(doubled=1.0)) == 2 * sum(len(s.objects) for s in SCENES)
    renamed = only(misnamed=1.0)
    assert all(
        Counter(o.name for o in a.objects) != Counter(o.name for o in b.objects)
        for a, b in zip(SCENES, renamed, strict=True)
        if len(a.objects) == 1
    )
    assert all(
        (a.objects[0].name in STUFF) == (b.objects[0].name in STUFF)
        for a, b in zip(SCENES, renamed, strict=True)
        if len(a.objects) == 1
    )


def test_jitter_moves_boxes_a_little() -> None:
    shifts = [
        abs(a - b)
        for before, after in zip(SCENES, only(jitter=0.04), strict=True)
        for one, other in zip(before.objects, after.objects, strict=True)
        if one.name == other.name and one.number == other.number and len(before.named(one.name)) == 1
        for a, b in zip(one.box, other.box, strict=True)
    ]
    assert 0.001 < sum(shifts) / len(shifts) < 0.05


def test_letters_are_misread_lines_and_relations_lost() -> None:
    lines = "".join(line for s in SCENES for line in s.lines)
    read = "".join(line for s in only(character=0.2) for line in s.lines)
    assert read != lines
    assert 0.9 < len(read) / len(lines) < 1.1
    assert sum(len(s.lines) for s in only(line_missed=0.5)) < 0.7 * sum(len(s.lines) for s in SCENES)
    lost = sum(len(s.relations) for s in only(relation_missed=0.5))
    assert 0.35 < lost / sum(len(s.relations) for s in SCENES) < 0.65
    turned = only(relation_swapped=1.0)
    pairs = [(a.relations, b.relations) for a, b in zip(SCENES, turned, strict=True) if len(a.relations) == 1]
    assert pairs
    assert all((a.subject, a.object) == (b.object, b.subject) for (a,), (b,) in pairs)


def test_a_rate_is_a_share() -> None:
    with pytest.raises(ValueError, match="jitter"):
        ExpertNoise(jitter=-0.1)
