"""The dual run's own questions: the probes' wording, no box for what is not there, instructions that are followed."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from llm_server.evaluation.declines import cannot_tell
from llm_server.evaluation.instructions import followed, instruction
from llm_server.evaluation.probes.answers import boxes_in, same_class
from llm_server.evaluation.probes.boxes import iou
from llm_server.evaluation.probes.prompts import FORMS, ask_pope
from llm_server.evaluation.scoring import number
from llm_server.training import instructed_questions, mixture, probe_questions
from llm_server.training.dual_families import FAMILIES
from llm_server.training.expert_noise import USUAL, noisy, noisy_scene_stream
from llm_server.training.probe_questions import (
    B2C_FORMS,
    C2B_FORMS,
    CLASS_BOXES_FORM,
    DECLINED,
    POPE_FORM,
    absent_answer,
    absent_thing,
    box_to_class,
    class_to_binary,
    class_to_boxes,
    one_box,
    unseen,
)
from llm_server.training.question import Draw, Family, Question
from llm_server.training.relation_questions import UNKNOWN
from llm_server.training.scenes import Scene, SceneObject, scenes
from llm_server.training.vocabulary import article

OWN = (
    probe_questions.OBJECT_FAMILIES
    + probe_questions.VL_FAMILIES
    + instructed_questions.OBJECT_FAMILIES
    + instructed_questions.VL_FAMILIES
)
SCENES = scenes("train", 5, 60)
DOGS = Scene(
    (
        SceneObject("dog", 1, (0.10, 0.10, 0.50, 0.60), 0.15),
        SceneObject("dog", 2, (0.60, 0.20, 0.80, 0.50), 0.05),
        SceneObject("ball", 1, (0.85, 0.85, 0.95, 0.95), 0.01),
    ),
    (),
    (),
)


def drawn(draw: Draw, n: int = 200, scene: Scene | None = None) -> list[tuple[Scene, Question]]:
    rng = random.Random(11)
    shown = [scene or SCENES[k % len(SCENES)] for k in range(n)]
    return [(one, question) for one in shown if (question := draw(rng, one)) is not None]


def test_the_wording_is_that_of_the_probes() -> None:
    published, short = FORMS["published"], FORMS["short"]
    assert (published.existence, short.existence) == C2B_FORMS
    assert (published.box_to_class, short.box_to_class) == B2C_FORMS
    assert published.class_to_box == CLASS_BOXES_FORM
    assert POPE_FORM.format(a_name=article("elephant")) == ask_pope("elephant")


@pytest.mark.parametrize("family", OWN, ids=lambda f: f.draw.__name__)
def test_each_family_asks_with_clean_words_and_follows_its_own_instruction(family: Family) -> None:
    asked = drawn(family.draw)
    assert asked
    for _, question in asked:
        assert question.task == family.task
        assert question.kind == family.kind
        assert "{" not in question.text + question.answer
        assert "  " not in question.text + question.answer
        assert question.answer.endswith(".")
        form = instruction(question.text)
        if form is not None and question.kind != "text":
            assert followed(form, question.answer), question
    for nothing in (family.draw(random.Random(3), Scene((), (), ())) for _ in range(5)):
        assert nothing is None or nothing.answer


def test_boxes_are_those_listed_and_never_made_up() -> None:
    absent = 0
    for scene, question in drawn(class_to_boxes, 400):
        said = boxes_in(question.answer)
        listed = {seen.box for seen in scene.objects}
        assert set(said) <= listed
        if cannot_tell(question.answer):
            absent += 1
            assert not said
            name = question.answer.removeprefix(absent_answer("")[:-1]).rstrip(".")
            assert not scene.named(name)
        else:
            assert len(said) == len(set(re.findall(r"#(\d+)", question.answer)))
    assert 60 < absent < 240
    for _, question in drawn(one_box, 200, DOGS):
        assert bool(boxes_in(question.answer)) != cannot_tell(question.answer)


def test_a_box_is_answered_with_what_overlaps_it_most() -> None:
    redrawn = empty = 0
    for scene, question in drawn(box_to_class, 600):
        numbers = [float(value) for value in re.findall(r"\d\.\d\d", question.text)]
        x0, y0, x1, y1 = numbers[-4:]
        overlaps = {seen: iou(seen.box, (x0, y0, x1, y1)) for seen in scene.objects}
        if "Nothing" in question.answer:
            empty += 1
            assert not any(overlaps.values())
            continue
        best = max(overlaps, key=lambda seen: overlaps[seen])
        redrawn += overlaps[best] < 1
        assert overlaps[best] >= 0.5
        said = question.short or question.answer.lower().rstrip(".")
        assert same_class(said, best.name)
    assert redrawn > 50
    assert empty > 5


def test_existence_is_yes_for_what_is_there_and_half_of_the_time() -> None:
    answers = Counter[str]()
    for scene, question in drawn(class_to_binary, 300):
        asked = re.search(r'category "([^"]+)"|there (?:an? )?([a-z ]+) in the image', question.text)
        assert asked is not None
        assert question.answer == ("Yes." if scene.named(asked.group(1) or asked.group(2)) else "No.")
        answers[question.answer] += 1
    assert min(answers.values()) > 90


def test_what_was_not_seen_is_declined() -> None:
    for _, question in drawn(absent_thing):
        assert question.answer.startswith(DECLINED[:-1])
        assert cannot_tell(question.answer)
        name = question.answer.removeprefix(f"{DECLINED[:-1]}: there is no ").rstrip(".")
        assert name in question.text
    assert {question.answer for _, question in drawn(unseen)} == {DECLINED}


def test_counts_and_letters_are_right() -> None:
    for scene, question in drawn(instructed_questions.count_word, 200):
        assert question.answer.rstrip(".").isdigit()
        assert number(question.answer) in {*scene.counts().values(), 0}
    for scene, question in drawn(instructed_questions.object_options, 300):
        rows = dict(re.findall(r"^([A-E])\. (.+)$", question.text, re.MULTILINE))
        right = rows[question.answer.rstrip(".")]
        if right.isdigit():
            assert int(right) in scene.counts().values()
        else:
            assert [name for name in rows.values() if scene.named(name)] == [right]


def test_the_families_keep_the_recipe_s_and_decline_in_one_way() -> None:
    rng = random.Random(2)
    for task, families in FAMILIES.items():
        kinds = {family.kind for family in families}
        assert {family.kind for family in mixture.FAMILIES[task]} <= kinds
        answers = [q.answer for f in families for s in SCENES[:20] if (q := f.draw(rng, s)) is not None]
        assert UNKNOWN not in answers
    assert DECLINED in answers


def test_with_noise_answers_are_what_the_noisy_scene_says() -> None:
    found = 0
    for (rng, scene), clean in zip(noisy_scene_stream("train", 5, USUAL), SCENES, strict=False):
        question = class_to_boxes(rng, scene, absent_share=0.0)
        if question is None or cannot_tell(question.answer):
            continue
        assert set(boxes_in(question.answer)) <= {seen.box for seen in scene.objects}
        found += not set(boxes_in(question.answer)) <= {seen.box for seen in clean.objects}
    assert found > 5
    assert noisy(DOGS, USUAL, random.Random(1)).objects != DOGS.objects
