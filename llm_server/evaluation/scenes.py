"""The scenes evaluation: exact answers about held-out generated scenes, with both adapters and with neither.

Seen as perfect experts would report them, or through the noise model; the right answer is always the one that the
words give. Decoding is greedy on the base as it is served.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from llm_server.evaluation.packed_generation import answer_scenes
from llm_server.evaluation.scene_questions import Item, RecipeName, heldout
from llm_server.evaluation.scene_scores import Scores
from llm_server.evaluation.scene_sight import MapSight
from llm_server.training.expert_noise import NONE, USUAL
from llm_server.training.scenes import Verbalize

_SHORTEST_LIMIT: Final = 40
_BEYOND: Final = 8
"""Tokens that an answer may be longer than the right one. What is longer cannot be equal to it."""


def evaluate(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    verbalize: Verbalize,
    *,
    batch: int = 24,
    sight: MapSight | None = None,
    advance: Callable[[int], None] = lambda scenes: None,
) -> Scores:
    """Asks every question of every item and scores the answers.

    Args:
        model: a causal language model or a peft model.
        tokenizer: of it.
        items: scenes and questions.
        verbalize: how a scene is put into words.
        batch: scenes at a time.
        sight: shows the scenes as crayon maps too.
        advance: told of scenes done.
    """
    prompts = [(verbalize(item.scene), [q.text for q in item.questions]) for item in items]
    answers = answer_scenes(
        model,
        tokenizer,
        prompts,
        max_new_tokens=_SHORTEST_LIMIT,
        limits=[answer_limits(tokenizer, item) for item in items],
        batch=batch,
        seen=None if sight is None else sight.of([item.scene for item in items]),
        advance=advance,
    )
    scores = Scores()
    for item, (words, _), said in zip(items, prompts, answers, strict=True):
        scores.add_all(item.questions, words, said)
    return scores


def answer_limits(tokenizer: Any, item: Item) -> list[int]:
    """Where the answer to each question of an item is cut: 40 tokens, or a little beyond the right answer's."""
    lengths = (len(tokenizer.encode(q.answer, add_special_tokens=False)) for q in item.questions)
    return [max(_SHORTEST_LIMIT, length + _BEYOND) for length in lengths]


def evaluate_with_and_without(
    model: Any,
    tokenizer: Any,
    *,
    seed: int,
    n: int,
    verbalize: Verbalize,
    recipe: RecipeName = "scenes",
    noise: bool = False,
    others: int = 8,
    base: bool = True,
    sight: MapSight | None = None,
    advance: Callable[[int], None] = lambda scenes: None,
) -> tuple[dict[str, Any], Scores]:
    """The report of ``polysight evaluate scenes``, and the adapters' scores with their wrong answers.

    Args:
        model: a peft model with both adapters active.
        tokenizer: of the base.
        seed: which held-out scenes.
        n: how many.
        verbalize: how a scene is put into words.
        recipe: whose questions are asked.
        noise: see the scenes through the noise model.
        others: questions about each scene beside those of the main kinds.
        base: ask the base alone too; without, ``base`` of the report is None.
        sight: shows the scenes to the adapters as crayon maps too; the base cannot read them.
        advance: told of scenes done, ``2 * n`` in all, ``n`` without the base.
    """
    began = time.monotonic()
    items = heldout(seed, n, noise=USUAL if noise else NONE, others=others, recipe=recipe)
    adapted = evaluate(model, tokenizer, items, verbalize, sight=sight, advance=advance)
    alone = None
    if base:
        with model.disable_adapter():
            alone = evaluate(model, tokenizer, items, verbalize, advance=advance).report()
    report = {
        **adapted.report(),
        "base": alone,
        "n": n,
        "seed": seed,
        "questions": recipe,
        "noise": noise,
        "crayon": sight is not None,
        "seconds": round(time.monotonic() - began, 1),
    }
    return report, adapted
