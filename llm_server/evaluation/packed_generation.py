"""Greedy answers to several questions about each of several scenes at once, in the packed form of training.

A scene's prefix is read once; each question is a branch that sees the prefix and itself, and each decoding step
appends one token to every branch that has not ended. The logits are those of asking each question alone (tested); the
work is about a quarter, which is what makes 300 scenes a matter of minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from llm_server.evaluation.crayon_reading import CrayonReader
from llm_server.prompts.chatml import END
from llm_server.training.image_packing import PLACEHOLDER
from llm_server.training.packed_attention import additive
from llm_server.training.packing import Tokenizer, split_prompt
from llm_server.training.scene_maps import Maps

#: (verbalization, questions) of one scene.
Prompt = tuple[str, Sequence[str]]


@dataclass(frozen=True)
class Seen:
    """The maps of all scenes of a call, in their order, and who reads them."""

    reader: CrayonReader
    maps: Sequence[Maps]


@dataclass(frozen=True)
class _Rows:
    """One scene: ids, positions, branch numbers (0 = prefix, k = question k), where each question ends."""

    ids: list[int]
    positions: list[int]
    branches: list[int]
    last: list[int]


def prompt_rows(
    tokenizer: Tokenizer, verbalization: str, questions: Sequence[str], *, place: int = 0, image: int = 0
) -> tuple[list[int], list[int], list[int], list[int]]:
    """One scene: ids, positions, branch numbers (0 = prefix, k = question k), and where each question ends.

    ``image`` positions of a picture stand after the first ``place`` tokens.
    """
    head = tokenizer.encode(split_prompt(verbalization, questions[0])[0], add_special_tokens=False)
    head = [*head[:place], *([PLACEHOLDER] * image), *head[place:]]
    ids, positions, branches = list(head), list(range(len(head))), [0] * len(head)
    last = []
    for number, question in enumerate(questions, start=1):
        ask = tokenizer.encode(split_prompt(verbalization, question)[1], add_special_tokens=False)
        ids += ask
        positions += range(len(head), len(head) + len(ask))
        branches += [number] * len(ask)
        last.append(len(ids) - 1)
    return ids, positions, branches, last


def answer_scenes(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    batch: int,
    limits: Sequence[Sequence[int]] | None = None,
    seen: Seen | None = None,
    advance: Callable[[int], None] = lambda scenes: None,
) -> list[list[str]]:
    """Greedy answers for (verbalization, questions) pairs; scenes may have different numbers of questions.

    Args:
        model: a causal language model or a peft model, with sdpa, eager or packed attention.
        max_new_tokens: where an answer without end is cut.
        batch: scenes at a time.
        limits: tokens of each single answer instead.
        seen: crayon maps, one for each scene; None for none.
        advance: told how many more scenes are done.
    """
    wanted = limits or [[max_new_tokens] * len(questions) for _, questions in prompts]
    asked = [i for i, (_, questions) in enumerate(prompts) if questions]
    order = sorted(asked, key=lambda i: len(prompts[i][0]))
    answers: list[list[str]] = [[] for _ in prompts]
    advance(len(prompts) - len(asked))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        own = None if seen is None else Seen(seen.reader, [seen.maps[i] for i in chosen])
        found = _answer_batch(
            model, tokenizer, [prompts[i] for i in chosen], [wanted[i] for i in chosen], own
        )
        for i, texts in zip(chosen, found, strict=True):
            answers[i] = texts
        advance(len(chosen))
    return answers


@torch.inference_mode()
def _answer_batch(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], limits: Sequence[Sequence[int]], seen: Seen | None
) -> list[list[str]]:
    place = 0 if seen is None else seen.reader.place(tokenizer)
    image = 0 if seen is None else seen.reader.positions
    rows = [
        _Rows(*prompt_rows(tokenizer, text, questions, place=place, image=image))
        for text, questions in prompts
    ]
    length, most = max(len(row.ids) for row in rows), max(len(row.last) for row in rows)
    pad, end = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)
    ids = _padded([row.ids for row in rows], pad, length)
    positions = _padded([row.positions for row in rows], 0, length)
    branches = _padded([row.branches for row in rows], -1, length)
    last = _padded([row.last for row in rows], 0, most)
    # A question that there is not has nothing left to say.
    left = _padded(limits, 0, most)

    from transformers import DynamicCache

    cache = DynamicCache()
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    shown = torch.zeros(ids.shape, dtype=torch.bool)
    shown[:, place : place + image] = True
    logits = _logits(
        model, ids, positions, _sees(branches, branches) & causal, cache, at=last, seen=seen, shown=shown
    )
    token, at = logits.argmax(-1), positions.gather(1, last)
    said: list[list[list[int]]] = [[[] for _ in questions] for _, questions in prompts]
    alive = torch.arange(len(rows))
    while True:
        left = torch.where((token == end) | (token == pad), 0, left)
        speaking = left > 0
        for row, branch in speaking.nonzero().tolist():
            said[int(alive[row])][branch].append(int(token[row, branch]))
        left = (left - 1).clamp(min=0)
        speaking = left > 0
        staying = speaking.any(dim=1).nonzero()[:, 0]
        if not len(staying):
            break
        if len(staying) <= 0.7 * len(alive):
            # Scenes whose answers have all ended leave, so that a long answer does not keep the batch.
            cache.batch_select_indices(staying)
            alive, branches, at, left, token, speaking = (
                kept[staying] for kept in (alive, branches, at, left, token, speaking)
            )
        # Of each scene only the branches that go on, padded with branches that nobody sees.
        most = int(speaking.sum(dim=1).max())
        going = speaking.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        real = speaking.gather(1, going)
        at = at + speaking
        new = torch.where(real, going + 1, -1)
        branches = torch.cat([branches, new], dim=1)
        # Of the tokens appended in one step each sees its own only: branch numbers already say so.
        fed = torch.where(real, token.gather(1, going), pad)
        logits = _logits(model, fed, at.gather(1, going), _sees(new, branches), cache)
        token = torch.full_like(token, end).scatter(1, going, logits.argmax(-1))
    return [[tokenizer.decode(answer).strip() for answer in scene] for scene in said]


def _padded(values: Sequence[Sequence[int]], fill: int, length: int) -> torch.Tensor:
    return torch.tensor([[*row, *([fill] * (length - len(row)))] for row in values])


def _sees(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """(B, Q) and (B, K) branch numbers -> (B, 1, Q, K) bool: prefix or own branch; order is the caller's."""
    same = queries[:, :, None] == keys[:, None, :]
    prefix = (keys[:, None, :] == 0) & (queries[:, :, None] >= 0)
    return (same | prefix)[:, None]


def _logits(
    model: Any,
    ids: torch.Tensor,
    positions: torch.Tensor,
    mask: torch.Tensor,
    cache: Any,
    *,
    at: torch.Tensor | None = None,
    seen: Seen | None = None,
    shown: torch.Tensor | None = None,
) -> torch.Tensor:
    causal = model.base_model.model if hasattr(model, "peft_config") else model
    embeddings = causal.get_input_embeddings()(ids)
    rows = None
    if seen is not None and shown is not None:
        rows = seen.reader.rows(shown, seen.maps)
        embeddings = seen.reader.embeddings(embeddings, rows)
    with nullcontext() if seen is None else seen.reader.within(rows):
        hidden = causal.model(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=additive(mask, causal.dtype),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    if at is not None:
        hidden = hidden.gather(1, at[:, :, None].expand(-1, -1, hidden.shape[-1]))
    result: torch.Tensor = causal.lm_head(hidden)
    return result
