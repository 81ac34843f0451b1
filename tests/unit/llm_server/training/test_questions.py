"""Every family asks, and its answers follow from the scene."""

from __future__ import annotations

import random

import pytest

from llm_server.evaluation.scoring import number
from llm_server.training import object_questions, relation_questions, vl_questions
from llm_server.training.question import Draw, Family, Question, draw_questions
from llm_server.training.scenes import Scene, SceneObject, SceneRelation, scenes
from llm_server.training.vocabulary import THINGS, article, plural

FAMILIES = object_questions.FAMILIES + vl_questions.FAMILIES
SCENES = scenes("train", 99, 120)
BUS_STOP = Scene(
    objects=(
        SceneObject("bus", 1, (0.03, 0.21, 1.00, 0.70), 0.40),
        SceneObject("person", 1, (0.06, 0.37, 0.30, 0.84), 0.08),
        SceneObject("person", 2, (0.27, 0.38, 0.43, 0.80), 0.05),
        SceneObject("tie", 1, (0.10, 0.50, 0.12, 0.60), 0.002),
    ),
    relations=(SceneRelation(1, "in front of", 0), SceneRelation(1, "wearing", 3)),
    lines=("cero", "emisiones"),
)
EMPTY = Scene((), (), ())


def drawn(family: Family, scene: Scene, n: int = 60) -> list[Question]:
    rng = random.Random(5)
    return [q for q in (family.draw(rng, scene) for _ in range(n)) if q is not None]


def named(kind: str) -> Family:
    return next(f for f in FAMILIES if f.kind == kind)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.draw.__name__)
def test_each_family_asks_about_some_scene_with_clean_words(family: Family) -> None:
    rng = random.Random(1)
    asked = [q for q in (family.draw(rng, scene) for scene in SCENES) if q is not None]
    assert asked
    for question in asked:
        assert question.task == family.task
        assert question.text == question.text.strip()
        assert question.answer.endswith(".")
        assert "{" not in question.text + question.answer
        assert "  " not in question.text + question.answer


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.draw.__name__)
def test_no_family_stumbles_over_an_empty_scene(family: Family) -> None:
    for question in drawn(family, EMPTY, 20):
        assert question.answer


def test_a_count_is_the_number_of_listed_instances() -> None:
    rng = random.Random(2)
    for scene in SCENES:
        question = object_questions.count(rng, scene)
        if question is None:
            continue
        counts = scene.counts()
        possible = {counts[name] for name in counts} | {0}
        assert number(question.answer) in possible
    one_scene = {q.answer for q in drawn(named("count"), BUS_STOP)}
    assert {"There are 2 people in the picture.", "There is 1 bus in the picture.", "2."} <= one_scene


def test_categories_find_their_classes() -> None:
    answers = {q.text: q.answer for q in drawn(named("category"), BUS_STOP, 200) if "vehicle" in q.text}
    assert set(answers.values()) <= {"A bus.", "Bus."}
    assert "What vehicle is in the picture?" in answers


def test_existence_says_yes_only_of_what_is_listed() -> None:
    for question in drawn(named("existence"), BUS_STOP, 200):
        there = any(word in question.text for word in ("bus", "person", "people", "human", "tie"))
        assert question.answer.startswith("Yes" if there else "No")


def asked_of(draw: Draw, scene: Scene, n: int = 300) -> dict[str, Question]:
    return {q.text: q for q in drawn(Family("any", "vl", 1.0, draw), scene, n)}


def test_relations_are_answered_in_the_words_they_are_read_in() -> None:
    objects = asked_of(relation_questions.relation_object, BUS_STOP)
    assert objects["What is person (#1) wearing?"].answer == "The person (#1) is wearing the tie."
    assert objects["What is person (#1) wearing?"].short == "Tie."
    assert objects["What is the person in front of?"].answer == "The person (#1) is in front of the bus."
    assert any(q.answer.endswith("anything.") for q in objects.values())
    subjects = asked_of(relation_questions.relation_subject, BUS_STOP)
    assert subjects["Who is in front of the bus?"].answer == "The person (#1) is in front of the bus."
    assert any(q.answer.startswith(("Nobody", "Nothing")) for q in subjects.values())


def test_an_act_is_told_before_a_place() -> None:
    doing = asked_of(relation_questions.doing, BUS_STOP)
    assert doing["What is person (#1) doing?"].answer == "The person (#1) is wearing the tie."
    assert relation_questions.UNKNOWN in {q.answer for q in doing.values()}


def test_text_is_read_in_order_and_its_absence_said() -> None:
    asked = {q.text: q.answer for q in drawn(named("text"), BUS_STOP, 200)}
    assert asked["What is written on the bus?"] == "It says: cero, emisiones."
    assert {q.answer for q in drawn(named("text"), EMPTY)} == {vl_questions.NO_TEXT}


def test_draws_are_different_questions_and_at_most_as_many_as_asked_for() -> None:
    rng = random.Random(3)
    for scene in SCENES[:30]:
        questions = draw_questions(rng, scene, vl_questions.FAMILIES, 9)
        assert len({q.text for q in questions}) == len(questions) <= 9


@pytest.mark.parametrize(
    ("name", "many"),
    [("person", "people"), ("bus", "buses"), ("sheep", "sheep"), ("wine glass", "wine glasses")],
)
def test_plurals(name: str, many: str) -> None:
    assert plural(name) == many


def test_articles_fit_and_all_eighty_classes_are_there() -> None:
    assert article("apple") == "an apple"
    assert article("bus") == "a bus"
    assert article("grass") == "grass"
    assert len(set(THINGS)) == 80
