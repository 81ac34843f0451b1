"""Held-out scenes: what is asked, of perfect and of noisy experts, and what is reported."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import pytest

from llm_server.evaluation.scene_questions import FAMILIES, KINDS, MAX_OBJECTS, RecipeName, heldout, kinds
from llm_server.evaluation.scene_scores import Scores
from llm_server.evaluation.scenes import answer_limits, evaluate_with_and_without
from llm_server.evaluation.scoring import number
from llm_server.tiny_model import tiny_model, tiny_tokenizer
from llm_server.training.expert_noise import USUAL, noise_rng, noisy
from llm_server.training.phrases import counted_list
from llm_server.training.question import Question
from llm_server.training.recipe import adapted
from llm_server.training.scenes import Scene, scene_stream, scenes


def words(scene: Scene) -> str:
    return f"{len(scene.objects)} objects."


@pytest.mark.parametrize("noise", [False, True])
def test_the_report_has_every_kind_with_and_without_adapters(noise: bool) -> None:
    model = adapted(tiny_model(320), rank=2, alpha=4)
    told: list[int] = []
    report, scores = evaluate_with_and_without(
        model, tiny_tokenizer(), seed=1, n=3, verbalize=words, noise=noise, others=2, advance=told.append
    )
    assert {*KINDS, "all_kinds", "worst_kind", "worst_kind_name", "declines", "kinds", "base"} <= set(report)
    assert (report["n"], report["seed"], report["noise"], report["crayon"]) == (3, 1, noise, False)
    assert set(report["base"]["kinds"]) == set(report["kinds"])
    assert scores.total.total() == sum(cell["asked"] for cell in report["kinds"].values())
    assert sum(told) == 6
    assert all(0 <= report[kind] <= 1 for kind in KINDS)


def test_without_the_base_nothing_is_asked_of_it() -> None:
    model = adapted(tiny_model(320), rank=2, alpha=4)
    report, _ = evaluate_with_and_without(
        model, tiny_tokenizer(), seed=1, n=1, verbalize=words, others=0, base=False
    )
    assert report["base"] is None


def test_held_out_scenes_are_never_training_scenes() -> None:
    items = heldout(12345, 40)
    assert [i.questions for i in items] == [i.questions for i in heldout(12345, 40)]
    assert {i.scene for i in items if i.scene.objects}.isdisjoint(scenes("train", 12345, 400))
    for item in items:
        kinds = [q.kind for q in item.questions]
        assert len(kinds) == len(set(kinds))
        assert [kind for kind in kinds if kind in KINDS] == [kind for kind in KINDS if kind in kinds]


@pytest.mark.parametrize("recipe", ["scenes", "dual"])
def test_every_kind_is_asked_and_about_as_often(recipe: RecipeName) -> None:
    items = heldout(7, 60, recipe=recipe)
    asked = Counter(q.kind for item in items for q in item.questions)
    assert set(asked) == set(kinds(FAMILIES[recipe]))
    assert min(asked[kind] for kind in KINDS) >= 40
    assert all(len(item.questions) <= 12 for item in items)


def test_noise_shows_the_same_scenes_and_right_is_what_is_then_seen() -> None:
    plain = list(islice(scene_stream("heldout", 3), 60))
    items = heldout(3, 60, noise=USUAL)
    seen = [noisy(scene, USUAL, noise_rng("heldout", 3, k)) for k, (_, scene) in enumerate(plain)]
    assert [item.scene for item in items] == [one for one in seen if len(one.objects) <= MAX_OBJECTS][:60]
    changed = 0
    for item, (_, scene) in zip(items, plain, strict=True):
        changed += item.scene != scene
        for question in item.questions:
            if question.kind == "list" and item.scene.objects:
                assert question.answer.lower() == f"{counted_list(item.scene.counts())}.".lower()
            if question.kind == "text":
                assert all(line in question.answer for line in item.scene.lines)
            if question.kind == "count":
                said = number(question.answer)
                assert said == 0 or said in item.scene.counts().values()
    assert changed > 30


def test_an_answer_may_be_as_long_as_the_right_one() -> None:
    tokenizer: Any = tiny_tokenizer()
    item = heldout(5, 1, others=20)[0]
    limits = answer_limits(tokenizer, item)
    for question, limit in zip(item.questions, limits, strict=True):
        assert limit > len(tokenizer.encode(question.answer, add_special_tokens=False))


@pytest.mark.parametrize("recipe", ["scenes", "dual"])
def test_the_right_answer_is_right(recipe: RecipeName) -> None:
    """Whoever says what training would have said is right, follows instructions, and declines what is absent."""
    scores = Scores()
    for item in heldout(11, 60, noise=USUAL, others=30, recipe=recipe):
        scores.add_all(item.questions, "", [q.answer for q in item.questions])
    report = scores.report()
    assert [report[key] for key in ("all_kinds", "worst_kind", "declines", "false_declines")] == [1, 1, 1, 0]
    assert {form: cell["followed"] for form, cell in report["instructions"].items()} == dict.fromkeys(
        ["one_word"] if recipe == "scenes" else ["letter", "one_word"], 1.0
    )
    assert report["asked_about_absent"] > 100
    assert scores.of_task("object") == scores.of_task("vl") == 1.0


@pytest.mark.parametrize("recipe", ["scenes", "dual"])
def test_saying_nothing_is_right_nowhere(recipe: RecipeName) -> None:
    scores = Scores()
    for item in heldout(11, 40, others=30, recipe=recipe):
        scores.add_all(item.questions, "", [""] * len(item.questions))
    assert scores.report()["all_kinds"] == 0.0
    assert scores.report()["declines"] == 0.0


def test_scores() -> None:
    scores = Scores()
    there = Question("existence", "vl", "Is there a dog?", "Yes, there is a dog in the picture.")
    absent = Question("existence", "vl", "Is there a cat? Answer yes or no.", "No.")
    count = Question("count", "object", "How many dogs are there? Use one word.", "1.")
    choice = Question("choice", "vl", "Which?\nA. dog\nB. cat\nAnswer with the option's letter.", "A.")
    scores.add_all(
        [there, absent, count, choice], "words", ["No.", "No.", "There is 1 dog in the picture.", "B"]
    )
    report = scores.report()
    assert report["existence"] == 0.5
    assert report["count"] == 1.0
    assert report["kinds"]["choice"] == {"exact": 0.0, "asked": 1}
    assert (report["worst_kind"], report["worst_kind_name"]) == (0.0, "choice")
    assert report["all_kinds"] == 0.5
    assert (report["declines"], report["false_declines"], report["asked_about_absent"]) == (1.0, 0.3333, 1)
    assert report["instructions"] == {
        "letter": {"followed": 1.0, "exact": 0.0, "asked": 1},
        "one_word": {"followed": 0.5, "exact": 1.0, "asked": 2},
    }
    assert [wrong.said for wrong in scores.wrong] == ["No.", "B"]


def test_nothing_asked_is_nothing_right() -> None:
    report = Scores().report()
    assert report["worst_kind"] is None
    assert report["all_kinds"] == report["declines"] == 0.0
