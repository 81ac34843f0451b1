"""What is trained on, in which proportions: the stream of scenes, each with a task drawn for it and its questions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from llm_server.training import object_questions, relation_questions, vl_questions
from llm_server.training.question import TASKS, Family, Question, Task, draw_questions
from llm_server.training.scenes import Scene, scene_stream

FAMILIES: Final[dict[Task, tuple[Family, ...]]] = {
    "object": object_questions.FAMILIES,
    "vl": vl_questions.FAMILIES,
}


@dataclass(frozen=True)
class Mixture:
    """How often what is asked.

    Attributes:
        vl_share: of all steps, those that train the ``vl`` adapter.
        backwards: multiplies how often it is asked who or what does something to a thing: the answer stands before
            the words that the question repeats, which is what a causal model is slowest to learn.
        absent_share: of the questions that count a class, those about one that is not there.
        categories: multiplies how often it is asked what vehicle, what animal ... there is: the one kind that needs
            knowledge of the world besides reading, and that is answered with the commonest class without it.
    """

    vl_share: float = 0.55
    backwards: float = 1.0
    absent_share: float = 0.12
    categories: float = 1.0


@dataclass(frozen=True)
class Sample:
    """A scene, the task drawn for it, questions of that task."""

    task: Task
    scene: Scene
    questions: tuple[Question, ...]


def samples(
    seed: int, mixture: Mixture, *, questions: int, start: int = 0, together: int = 1
) -> Iterator[Sample]:
    """The endless training stream of one seed from scene number ``start`` on, ``questions`` a scene at most.

    A task is drawn for ``together`` samples at a time: those of one step.
    """
    families = {task: tuple(_mixed(family, mixture) for family in FAMILIES[task]) for task in TASKS}
    task: Task = "object"
    given = 0
    for rng, scene in scene_stream("train", seed, start):
        roll = rng.random()
        if given % together == 0:
            task = "vl" if roll < mixture.vl_share else "object"
        drawn = draw_questions(rng, scene, families[task], questions)
        if drawn:
            given += 1
            yield Sample(task, scene, tuple(typed_carelessly(rng, question) for question in drawn))


def _mixed(family: Family, mixture: Mixture) -> Family:
    if family.draw is object_questions.count:
        return replace(family, draw=partial(object_questions.count, absent_share=mixture.absent_share))
    if family.draw is object_questions.category:
        return replace(family, weight=family.weight * mixture.categories)
    if family.draw is relation_questions.relation_subject:
        return replace(family, weight=family.weight * mixture.backwards)
    return family


def typed_carelessly(rng: random.Random, question: Question) -> Question:
    """Now and then without the capital or the question mark, as people type."""
    roll = rng.random()
    if roll >= 0.08:
        return question
    text = question.text[0].lower() + question.text[1:] if roll < 0.06 else question.text
    return replace(question, text=text.removesuffix("?") if roll < 0.04 else text)
