"""A painted scene says what its maps say."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.training.expert_noise import listed_objects
from llm_server.training.scene_maps import Maps, as_painted, maps, painted
from llm_server.training.scenes import Scene, SceneObject, make_scene, scene_rng
from llm_server.training.vocabulary import STUFF, THINGS

LABELS = {name: [number] for number, name in enumerate(THINGS + STUFF)}
sides = st.integers(min_value=1, max_value=35)


@given(st.integers(min_value=0, max_value=10**6), sides, sides)
@settings(max_examples=80, deadline=None)
def test_what_is_read_off_the_grid_is_what_the_maps_hold(seed: int, rows: int, columns: int) -> None:
    scene = make_scene(scene_rng("train", seed, 0))
    seen, grid = as_painted(scene, painted(scene, rows, columns))
    found = maps(random.Random(1), seen, grid, LABELS)
    pairs = {(int(c), int(n)) for c, n in zip(found.classes.flat, found.numbers.flat, strict=True)}
    assert pairs - {(0, 0)} == {(LABELS[o.name][0] + 1, o.number) for o in seen.objects}
    assert listed_objects(list(seen.objects))[1] == seen.objects
    for one in seen.objects:
        ys, xs = np.nonzero((found.classes == LABELS[one.name][0] + 1) & (found.numbers == one.number))
        expected = (xs.min() / columns, ys.min() / rows, (xs.max() + 1) / columns, (ys.max() + 1) / rows)
        assert one.box == tuple(round(float(value), 2) for value in expected)
        assert one.area == pytest.approx(len(ys) / (rows * columns))
    assert set(seen.counts()) <= set(scene.counts())
    assert len(seen.relations) <= len(scene.relations)
    assert as_painted(seen, grid)[0].objects == seen.objects


def test_small_objects_lie_on_top_and_hidden_ones_are_gone() -> None:
    wall = SceneObject("wall", 1, (0.0, 0.0, 1.0, 1.0), 1.0)
    cup = SceneObject("cup", 1, (0.5, 0.5, 0.52, 0.52), 0.0002)
    hidden = SceneObject("fork", 1, (0.5, 0.5, 0.52, 0.52), 0.0003)
    grid = painted(Scene((wall, hidden, cup), (), ()), 4, 4)
    assert grid[2, 2] == 2
    assert (grid == 0).sum() == 15
    seen, _ = as_painted(Scene((wall, hidden, cup), (), ()), grid)
    assert [o.name for o in seen.objects] == ["wall", "cup"]


def test_the_21st_of_a_kind_has_no_number_and_unknown_names_are_an_error() -> None:
    row = tuple(SceneObject("bird", n + 1, (n / 25, 0.0, (n + 1) / 25, 1.0), 0.03) for n in range(25))
    scene = Scene(row, (), ())
    found = maps(random.Random(0), scene, painted(scene, 1, 25), LABELS)
    assert found.numbers.tolist() == [[*range(1, 21), 0, 0, 0, 0, 0]]
    assert set(found.classes.flat) == {LABELS["bird"][0] + 1}
    with pytest.raises(KeyError, match="bird"):
        maps(random.Random(0), scene, painted(scene, 1, 25), {})
    with pytest.raises(ValueError, match="belong"):
        Maps(found.classes, found.numbers.T)
