"""Answers to the free questions, with both adapters and with neither, as records for people to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llm_server.evaluation.free_questions import FREE, FreeScene
from llm_server.evaluation.packed_generation import answer_scenes
from llm_server.evaluation.scene_sight import MapSight
from llm_server.training.scenes import Verbalize

MAX_NEW_TOKENS: Final = 64


@dataclass(frozen=True)
class FreeAnswer:
    """One question with what a good answer would say, and what was said with and without adapters."""

    scene: str
    words: str
    question: str
    good: str
    answer: str
    base: str


def answer_free(
    model: Any,
    tokenizer: Any,
    verbalize: Verbalize,
    *,
    sight: MapSight | None = None,
    scenes: Sequence[FreeScene] = FREE,
    advance: Callable[[int], None] = lambda scenes: None,
) -> list[FreeAnswer]:
    """Greedy answers to all questions, in their order.

    Args:
        model: a peft model with both adapters active.
        tokenizer: of the base.
        verbalize: how a scene is put into words.
        sight: shows the scenes to the adapters as crayon maps too.
        scenes: and their questions.
        advance: told of scenes done, twice as many as there are.
    """
    prompts = [(verbalize(one.scene), [q.text for q in one.questions]) for one in scenes]

    def answers(*, maps: bool) -> list[list[str]]:
        seen = sight.of([one.scene for one in scenes]) if maps and sight is not None else None
        return answer_scenes(
            model, tokenizer, prompts, max_new_tokens=MAX_NEW_TOKENS, batch=10, seen=seen, advance=advance
        )

    adapted = answers(maps=True)
    with model.disable_adapter():
        alone = answers(maps=False)
    return [
        FreeAnswer(one.name, words, question.text, question.good, said, base)
        for one, (words, _), given, bare in zip(scenes, prompts, adapted, alone, strict=True)
        for question, said, base in zip(one.questions, given, bare, strict=True)
    ]
