"""Greedy answers to several questions about each of several scenes at once, in the packed form of training.

A scene's prefix is read once; each question is a branch that sees the prefix and itself, and each decoding step
appends one token to every branch. The logits are those of asking each question alone (tested); the work is about a
quarter, which is what makes 300 scenes a matter of minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from llm_server.prompts.chatml import END
from llm_server.training.packed_attention import additive
from llm_server.training.packing import Tokenizer, split_prompt


def prompt_rows(
    tokenizer: Tokenizer, verbalization: str, questions: Sequence[str]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """One scene: ids, positions, branch numbers (0 = prefix, k = question k), and where each question ends."""
    head = tokenizer.encode(split_prompt(verbalization, questions[0])[0], add_special_tokens=False)
    ids, positions, branches = list(head), list(range(len(head))), [0] * len(head)
    last = []
    for number, question in enumerate(questions, start=1):
        ask = tokenizer.encode(split_prompt(verbalization, question)[1], add_special_tokens=False)
        ids += ask
        positions += range(len(head), len(head) + len(ask))
        branches += [number] * len(ask)
        last.append(len(ids) - 1)
    return ids, positions, branches, last


@torch.inference_mode()
def answer_scenes(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[tuple[str, Sequence[str]]],
    *,
    max_new_tokens: int,
    batch: int,
    advance: Callable[[int], None] = lambda scenes: None,
) -> list[list[str]]:
    """Greedy answers for (verbalization, questions) pairs; every scene must have equally many questions.

    Args:
        model: a causal language model or a peft model, with sdpa, eager or packed attention.
        max_new_tokens: where an answer without end is cut.
        batch: scenes at a time.
        advance: told how many more scenes are done.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i][0]))
    answers: list[list[str]] = [[] for _ in prompts]
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        found = _answer_batch(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens)
        for i, texts in zip(chosen, found, strict=True):
            answers[i] = texts
        advance(len(chosen))
    return answers


def _answer_batch(
    model: Any, tokenizer: Any, prompts: Sequence[tuple[str, Sequence[str]]], max_new_tokens: int
) -> list[list[str]]:
    rows = [prompt_rows(tokenizer, text, questions) for text, questions in prompts]
    length = max(len(ids) for ids, *_ in rows)
    pad, end = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)

    def padded(values: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*row, *([fill] * (length - len(row)))] for row in values])

    ids = padded([row[0] for row in rows], pad)
    positions = padded([row[1] for row in rows], 0)
    branches = padded([row[2] for row in rows], -1)
    last = torch.tensor([row[3] for row in rows])

    from transformers import DynamicCache

    cache = DynamicCache()
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    logits = _logits(model, ids, positions, _sees(branches, branches) & causal, cache, at=last)
    at = positions.gather(1, last)
    said: list[list[list[int]]] = [[[] for _ in questions] for _, questions in prompts]
    alive = list(range(len(rows)))
    done = torch.zeros_like(last, dtype=torch.bool)
    for _ in range(max_new_tokens):
        token = logits.argmax(-1)
        done |= (token == end) | (token == pad)
        for row, scene in enumerate(alive):
            for branch, (number, over) in enumerate(
                zip(token[row].tolist(), done[row].tolist(), strict=True)
            ):
                if not over:
                    said[scene][branch].append(number)
        unfinished = (~done).any(dim=1).nonzero()[:, 0]
        if not len(unfinished):
            break
        if len(unfinished) <= 0.7 * len(alive):
            # Scenes whose answers have all ended leave, so that a long answer does not keep the batch.
            cache.batch_select_indices(unfinished)
            alive = [alive[i] for i in unfinished.tolist()]
            branches, at, done, token = (
                branches[unfinished],
                at[unfinished],
                done[unfinished],
                token[unfinished],
            )
        at = at + 1
        new = torch.arange(1, last.shape[1] + 1).expand(len(alive), -1)
        branches = torch.cat([branches, new], dim=1)
        # Of the tokens appended in one step each sees its own only: branch numbers already say so.
        logits = _logits(model, torch.where(done, pad, token), at, _sees(new, branches), cache, at=None)
    return [[tokenizer.decode(answer).strip() for answer in scene] for scene in said]


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
    at: torch.Tensor | None,
) -> torch.Tensor:
    causal = model.base_model.model if hasattr(model, "peft_config") else model
    hidden = causal.model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=additive(mask, causal.dtype),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    if at is not None:
        hidden = hidden.gather(1, at[:, :, None].expand(-1, -1, hidden.shape[-1]))
    result: torch.Tensor = causal.lm_head(hidden)
    return result
