"""The scenes evaluation: exact answers about held-out generated scenes, with both adapters and with neither.

One question of each kind (count, existence, relation, text) per scene; held-out scenes come from a namespace of their
own, so no seed can meet a training scene. Decoding is greedy on the base as it is served.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llm_server.evaluation.packed_generation import answer_scenes
from llm_server.evaluation.scoring import correct, number
from llm_server.training import object_questions, vl_questions
from llm_server.training.question import Family, Question
from llm_server.training.scenes import Scene, Verbalize, scene_stream

KINDS: Final[tuple[str, ...]] = ("count", "existence", "relation", "text")
MAX_COUNT: Final = 5
_FAMILIES: Final[dict[str, tuple[Family, ...]]] = {
    kind: tuple(f for f in object_questions.FAMILIES + vl_questions.FAMILIES if f.kind == kind)
    for kind in KINDS
}
_TRIES: Final = 40


@dataclass(frozen=True)
class Item:
    """A held-out scene with one question of each of :data:`KINDS`, in that order."""

    scene: Scene
    questions: tuple[Question, ...]


@dataclass
class Scores:
    """Right answers by kind, and the wrong ones to look at: (kind, words, question, expected, answer)."""

    right: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    def shares(self) -> dict[str, float]:
        """Share of right answers for each kind, four decimals."""
        return {kind: round(self.right[kind] / max(1, self.total[kind]), 4) for kind in KINDS}


def heldout(seed: int, n: int) -> list[Item]:
    """``n`` items; scenes that offer no question of some kind (no relation, say) are passed over."""
    found: list[Item] = []
    for item in _items(seed):
        if len(found) == n:
            break
        found.append(item)
    return found


def _items(seed: int) -> Iterator[Item]:
    for rng, scene in scene_stream("heldout", seed):
        questions: list[Question] = []
        for kind in KINDS:
            families = _FAMILIES[kind]
            for family in rng.choices(families, weights=[f.weight for f in families], k=_TRIES):
                question = family.draw(rng, scene)
                if question is not None and question.kind == kind and _fair(question):
                    questions.append(question)
                    break
        if len(questions) == len(KINDS):
            yield Item(scene, tuple(questions))


def _fair(question: Question) -> bool:
    return question.kind != "count" or (number(question.answer) or 0) <= MAX_COUNT


def evaluate(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    verbalize: Verbalize,
    *,
    batch: int = 20,
    max_new_tokens: int = 40,
    advance: Callable[[int], None] = lambda scenes: None,
) -> Scores:
    """Asks every question of every item and scores the answers; ``advance`` is told of scenes done."""
    prompts = [(verbalize(item.scene), [q.text for q in item.questions]) for item in items]
    answers = answer_scenes(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch=batch, advance=advance
    )
    scores = Scores()
    for item, (words, _), said in zip(items, prompts, answers, strict=True):
        for question, answer in zip(item.questions, said, strict=True):
            scores.total[question.kind] += 1
            if correct(question.kind, answer, question.answer, question.short):
                scores.right[question.kind] += 1
            else:
                scores.wrong.append((question.kind, words, question.text, question.answer, answer))
    return scores


def evaluate_with_and_without(
    model: Any,
    tokenizer: Any,
    *,
    seed: int,
    n: int,
    verbalize: Verbalize,
    advance: Callable[[int], None] = lambda scenes: None,
) -> tuple[dict[str, Any], Scores]:
    """The report of ``polysight evaluate scenes``, and the adapters' scores with their wrong answers.

    ``model`` is a peft model with both adapters active; ``advance`` is told of ``2 * n`` scenes in all.
    """
    began = time.monotonic()
    items = heldout(seed, n)
    adapted = evaluate(model, tokenizer, items, verbalize, advance=advance)
    with model.disable_adapter():
        base = evaluate(model, tokenizer, items, verbalize, advance=advance)
    report = {
        **adapted.shares(),
        "base": base.shares(),
        "n": n,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
    }
    return report, adapted
