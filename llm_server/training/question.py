"""What a question is, and how families of questions are drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from llm_server.training.scenes import Scene

Task = Literal["object", "vl"]
TASKS: Final[tuple[Task, ...]] = ("object", "vl")

#: Endings that ask for a bare answer.
ONE_WORD: Final[tuple[str, ...]] = (
    "Answer with one word.",
    "Answer with a single word or number.",
    "Answer the question using a single word or phrase.",
    "Use one word.",
    "Short answer.",
)
YES_NO: Final[tuple[str, ...]] = (
    "Answer yes or no.",
    "Answer the question using either yes or no.",
    "Yes or no?",
    "Answer with yes or no only.",
)


@dataclass(frozen=True)
class Question:
    """One question about a scene with its right answer; ``kind`` names the family it was drawn from.

    ``short`` is a barer answer that says the same and is as right when scored ("bicycle"), or empty.
    """

    kind: str
    task: Task
    text: str
    answer: str
    short: str = ""


#: Draws a question of one kind, or None where the scene offers none.
Draw = Callable[[random.Random, Scene], Question | None]


@dataclass(frozen=True)
class Family:
    """A way to ask, and how often it is drawn relative to the others of its task."""

    kind: str
    task: Task
    weight: float
    draw: Draw


def draw_questions(
    rng: random.Random, scene: Scene, families: Sequence[Family], n: int, *, tries: int = 6
) -> list[Question]:
    """Up to ``n`` different questions; families that do not fit the scene are drawn again."""
    out: dict[str, Question] = {}
    for family in rng.choices(families, weights=[f.weight for f in families], k=n * tries):
        if len(out) >= n:
            break
        question = family.draw(rng, scene)
        if question is not None:
            out.setdefault(question.text, question)
    return list(out.values())
