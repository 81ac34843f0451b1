"""Contenders differ in what they say they differ in, are trained and scored, and not twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cli.train_dual import scene_labels
from llm_server.evaluation.ablation.measures import MAP_KINDS, map_items
from llm_server.evaluation.ablation.run import CARD, AblationRefused, Rig, run_variant, score_given, summary
from llm_server.evaluation.ablation.variants import Variant, variants
from llm_server.evaluation.declines import declines
from llm_server.evaluation.scoring import number
from llm_server.training.bases import Base, tiny_base
from llm_server.training.dual_settings import TINY, BatchSettings, CrayonSettings
from llm_server.training.scenes import Scene

LABELS = scene_labels()
QUICK = replace(
    TINY,
    crayon=CrayonSettings(rows=2, columns=3, width=8, rank=2, alpha=2.0),
    batch=BatchSettings(questions=1, max_tokens=300),
)


def words(scene: Scene) -> str:
    return f"{len(scene.objects)} objects."


class Loads:
    """Counts how often the base is loaded."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Base:
        self.times += 1
        return tiny_base(0)


def rig(loads: Loads, n: int = 2) -> Rig:
    return Rig(loads, words, LABELS, n, 1)


def named(part: str, name: str, steps: int = 2) -> Variant:
    found = {one.name: one for one in variants(QUICK, part, steps=steps, seed=3)}  # type: ignore[arg-type]
    return found[name]


def test_contenders_differ_in_one_thing() -> None:
    crayon = {one.name: one.settings for one in variants(QUICK, "crayon", steps=40, seed=1)}
    assert list(crayon) == ["off", "semantic", "both"]
    tuned = [stage.steps for one in crayon.values() for stage in one.stages if stage.kind == "cit"]
    assert tuned == [30, 30, 30]
    assert [len(one.stages) for one in crayon.values()] == [1, 2, 2]
    assert {one.views.map_only for one in crayon.values()} == {1.0}
    assert [one.crayon_queries for one in crayon.values()] == ["off", "semantic", "both"]
    adapters = {one.name: one.settings for one in variants(QUICK, "adapters", steps=40, seed=1)}
    assert [one.adapter_use for one in adapters.values()] == ["vl-only", "single", "dual"]
    assert {one.crayon_queries for one in adapters.values()} == {"both"}
    assert adapters["single"].stages == adapters["dual"].stages
    assert {one.views for one in adapters.values()} == {QUICK.views}
    assert {one.seed for one in (*crayon.values(), *adapters.values())} == {1}


def test_the_tables_that_were_trained_are_those_that_are_asked() -> None:
    told = {
        one.name: (one.switches.semantic, one.switches.numbering)
        for one in variants(QUICK, "crayon", steps=4, seed=0)
    }
    assert told == {"off": (False, False), "semantic": (True, False), "both": (True, True)}


def test_the_map_alone_answers_what_is_asked_about_it() -> None:
    items = map_items(1, 12, rows=4, columns=4, labels=LABELS)
    assert {q.kind for item in items for q in item.questions} == set(MAP_KINDS)
    for item in items:
        if not item.maps.classes.any():
            assert all(declines(question.answer) for question in item.questions)
        for question in item.questions:
            said = number(question.answer) if question.kind == "count" else None
            if said:
                # The largest number of a class in the map is its count.
                assert said <= item.maps.numbers.max()


@pytest.mark.parametrize(("part", "name"), [("crayon", "semantic"), ("adapters", "single")])
def test_a_contender_is_trained_scored_and_not_run_again(tmp_path: Path, part: str, name: str) -> None:
    loads = Loads()
    steps: list[int] = []
    card = run_variant(
        rig(loads), named(part, name), tmp_path, step_done=lambda done, loss: steps.append(done)
    )
    assert set(card["scores"]) == (set(MAP_KINDS) if part == "crayon" else {"object", "vl"})
    assert all(0 <= share <= 1 for share in card["scores"].values())
    total = named(part, name).settings.steps
    assert steps == list(range(1, total + 1))
    folder = tmp_path / f"{part}-{name}-seed3"
    assert json.loads((folder / CARD).read_text()) == card
    assert not (folder / "run" / "stages").exists()
    assert loads.times == 2
    assert run_variant(rig(loads), named(part, name), tmp_path) == card
    assert loads.times == 2
    with pytest.raises(AblationRefused):
        run_variant(rig(loads), named(part, name, steps=9), tmp_path)
    if name != "semantic":
        return
    given = score_given(rig(loads), folder / "run", base=QUICK.base.name)
    assert list(given) == ["off", "semantic", "both"]


def test_a_summary_is_mean_and_spread() -> None:
    told = summary([{"count": 0.5}, {"count": 0.7}])
    assert told == {"count": 0.6, "spread": {"count": 0.1414}, "values": {"count": [0.5, 0.7]}}
    assert summary([{"count": 0.5}])["spread"] == {"count": 0.0}
