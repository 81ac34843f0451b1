"""The adapters and the crayon prompt that ship: what the server would read, and the cards that tell of their making.

`recipe.json` is of the run that taught them to answer from sentences, `run_card.json` of the one that went on from
there with crayon maps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import llm_server
from cli.scene_words import scene_words
from llm_server.adapter_files import read_adapters
from llm_server.base_checkpoint import NAME
from llm_server.base_model import LINEARS
from llm_server.models.crayon_files import load_crayon
from llm_server.training.mixture import Mixture
from llm_server.training.recipe import DataHash, Recipe, Stage, stage_samples

ROOT = Path(llm_server.__file__).parent / "adapters"


@pytest.fixture
def run_card() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "run_card.json").read_text())
    return loaded


@pytest.fixture
def card() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "recipe.json").read_text())
    return loaded


def test_both_are_there_for_the_served_base_and_say_what_they_are_for() -> None:
    adapters = read_adapters(ROOT, base=NAME)
    assert [(a.name, a.rank) for a in adapters] == [("object", 16), ("vl", 16)]
    assert all(a.description for a in adapters)
    assert len({a.sha256 for a in adapters}) == 2
    for adapter in adapters:
        config = json.loads((adapter.folder / "adapter_config.json").read_text())
        assert sorted(config["target_modules"]) == sorted(LINEARS)


def test_the_card_has_scores_above_the_bars_and_above_the_base_alone(card: dict[str, Any]) -> None:
    scores = card["scores"]
    assert scores["n"] >= 300
    assert min(scores[kind] for kind in ("existence", "relation", "text")) >= 0.85
    assert scores["count"] >= 0.75
    kinds = ("count", "existence", "relation", "text")
    assert all(scores[kind] > scores["base"][kind] for kind in kinds)
    assert card["loss"][-1][-1]["loss"] < card["loss"][0][0]["loss"]


def test_the_card_tells_of_all_that_was_trained_on(card: dict[str, Any]) -> None:
    assert card["steps"] == sum(stage["steps"] for stage in card["stages"])
    assert card["samples"] == card["steps"] * card["scenes_per_step"]
    assert len(card["loss"]) == len(card["stages"]) == len(card["stage_data_sha256"])


def test_the_knobs_on_the_card_make_its_data_again(card: dict[str, Any]) -> None:
    # The recipe has one schedule now, and fewer steps; what a stage reads is still what it was. The last one stands for
    # all: the whole takes a minute.
    last = card["stages"][-1]
    stage = Stage(last["steps"], last["start"], Mixture(**last["mixture"]))
    own = {name: card[name] for name in ("seed", "questions", "max_tokens", "scenes_per_step")}
    data = DataHash(scene_words)
    made = sum(1 for _ in data.through(stage_samples(Recipe(**own, stages=(stage,)), stage)))
    assert made == stage.steps * card["scenes_per_step"]
    assert data.sha256 == card["stage_data_sha256"][-1]


def test_the_crayon_prompt_is_of_the_same_run_and_for_the_served_base(run_card: dict[str, Any]) -> None:
    crayon = load_crayon(ROOT / "crayon", base=NAME)
    settings = run_card["settings"]
    assert crayon.queries == settings["crayon_queries"] == "both"
    shape = settings["crayon"]
    assert (crayon.shape.rows, crayon.shape.columns) == (shape["rows"], shape["columns"])
    assert len(settings["begun_from"]) == 64
    assert run_card["steps"] == sum(stage["steps"] for stage in settings["stages"])


def test_the_run_with_maps_kept_what_the_first_one_taught(run_card: dict[str, Any]) -> None:
    before, after = run_card["heldout_loss"]["base"], run_card["heldout_loss"]["trained"]
    assert set(before) == {"map", "object", "vl"}
    assert all(after[key] < before[key] / 5 for key in before)
    scores = run_card["scores"]
    assert scores["n"] >= 100
    assert min(scores[kind] for kind in ("existence", "relation", "text")) >= 0.85
    assert scores["count"] >= 0.75


def test_all_weights_together_stay_under_forty_megabytes() -> None:
    assert sum(path.stat().st_size for path in ROOT.rglob("*.safetensors")) < 40e6


@pytest.mark.parametrize("task", ["object", "vl"])
def test_they_are_small_enough_to_ship(task: str) -> None:
    assert (ROOT / task / "adapter_model.safetensors").stat().st_size < 12 * 2**20
