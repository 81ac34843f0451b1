"""Fifty free questions: none is one that training asks, all are answered, scenes can be shown."""

from __future__ import annotations

from collections import Counter

from llm_server.evaluation.free_answers import answer_free
from llm_server.evaluation.free_questions import FREE
from llm_server.evaluation.scene_questions import heldout
from llm_server.tiny_model import tiny_model, tiny_tokenizer
from llm_server.training.plausible import PREDICATES
from llm_server.training.recipe import adapted
from llm_server.training.scenes import Scene
from llm_server.training.vocabulary import STUFF, THINGS


def words(scene: Scene) -> str:
    return f"{len(scene.objects)} objects."


def test_fifty_questions_about_scenes_that_experts_could_report() -> None:
    questions = [q.text for one in FREE for q in one.questions]
    assert len(questions) == len(set(questions)) == 50
    for one in FREE:
        assert {seen.name for seen in one.scene.objects} <= set(THINGS + STUFF)
        assert {relation.predicate for relation in one.scene.relations} <= set(PREDICATES)
        counts: Counter[str] = Counter()
        for seen in one.scene.objects:
            counts[seen.name] += 1
            assert seen.number == counts[seen.name]
            x0, y0, x1, y1 = seen.box
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1
        assert all(question.good for question in one.questions)


def test_relations_join_the_things_that_were_named() -> None:
    riders = next(one.scene for one in FREE if one.name == "riders")
    told = {
        (riders.objects[r.subject].name, r.predicate, riders.objects[r.object].name) for r in riders.relations
    }
    assert told == {
        ("person", "riding", "bicycle"), ("person", "riding", "horse"), ("person", "holding", "umbrella"),
    }  # fmt: skip


def test_training_asks_none_of_them() -> None:
    asked = {q.text for item in heldout(1, 30, others=30) for q in item.questions}
    assert asked.isdisjoint(q.text for one in FREE for q in one.questions)


def test_every_question_is_answered_with_and_without_adapters() -> None:
    model = adapted(tiny_model(320), rank=2, alpha=4)
    done: list[int] = []
    answers = answer_free(model, tiny_tokenizer(), words, scenes=FREE[:2], advance=done.append)
    assert [one.question for one in answers] == [q.text for one in FREE[:2] for q in one.questions]
    # Fresh adapters add nothing.
    assert all(one.answer == one.base for one in answers)
    assert any(one.answer for one in answers)
    assert sum(done) == 4
