"""Packs one scene and many questions into one sequence: what was seen is read once, each question branches off it.

    prefix (system line, user turn up to the verbalization) | branch 1 (question, answer) | branch 2 | ...

Each branch attends to the prefix and to itself, and its positions go on from the end of the prefix, so every
branch gets exactly the logits it would get alone; the prefix, most of the text, is computed once for all.

Arrays of a batch: B sequences of L tokens, padded at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from llm_server.prompts.chatml import END, SYSTEM, Turn, first_user_text, render


class Tokenizer(Protocol):
    """The one thing that is asked of a tokenizer here."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text; special tokens written in the text become their ids."""
        ...


@dataclass(frozen=True)
class Packed:
    """One sequence. ``branches[i]`` is 0 in the prefix and k in branch k; ``targets[i]`` the token that position
    ``i`` is to predict, -100 where nothing is learnt, and ``weights[i]`` how much that counts."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    branches: tuple[int, ...]
    targets: tuple[int, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """``input_ids``, ``position_ids``, ``targets``: (B, L) int64; ``weights``: (B, L) float32; ``mask``: (B, 1, L, L)
    bool, True = attends."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor


IGNORED = -100


def split_prompt(verbalization: str, question: str, *, system: str = SYSTEM) -> tuple[str, str]:
    """The served prompt cut where the question begins: (prefix, rest); their sum is the prompt."""
    prompt = render([Turn("user", first_user_text(verbalization, question))], system=system)
    cut = prompt.rindex(f" {question}" if verbalization else question)
    return prompt[:cut], prompt[cut:]


def pack(
    tokenizer: Tokenizer,
    verbalization: str,
    pairs: Sequence[tuple[str, str]],
    *,
    max_tokens: int,
    system: str = SYSTEM,
) -> Packed:
    """Packs (question, answer) pairs after one verbalization; pairs that do not fit in ``max_tokens`` are left out.

    A token of an answer of n tokens weighs 1/sqrt(n): a long list of boxes must not drown a yes or a number.

    Raises:
        ValueError: no pair was given, or not one of them fits.
    """
    if not pairs:
        raise ValueError("no question to pack")
    head = tokenizer.encode(
        split_prompt(verbalization, pairs[0][0], system=system)[0], add_special_tokens=False
    )
    ids, positions, branches = list(head), list(range(len(head))), [0] * len(head)
    targets, weights = [IGNORED] * len(head), [0.0] * len(head)
    for number, (question, answer) in enumerate(pairs, start=1):
        ask = tokenizer.encode(
            split_prompt(verbalization, question, system=system)[1], add_special_tokens=False
        )
        reply = tokenizer.encode(f"{answer}{END}", add_special_tokens=False)
        branch = ask + reply
        if len(ids) + len(branch) > max_tokens:
            continue
        ids += branch
        positions += range(len(head), len(head) + len(branch))
        branches += [number] * len(branch)
        targets += [IGNORED] * (len(ask) - 1) + reply + [IGNORED]
        weights += [0.0] * (len(ask) - 1) + [len(reply) ** -0.5] * len(reply) + [0.0]
    if len(ids) == len(head):
        raise ValueError(f"no question fits in {max_tokens} tokens after a prefix of {len(head)}")
    return Packed(tuple(ids), tuple(positions), tuple(branches), tuple(targets), tuple(weights))


def attention_mask(branches: torch.Tensor) -> torch.Tensor:
    """(B, L) branch numbers -> (B, 1, L, L) bool: earlier or same position, and in the prefix or the same branch.

    Padding is branch -1: it attends to itself only, so that no row is empty.
    """
    length = branches.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = branches[:, :, None] == branches[:, None, :]
    to_prefix = (branches[:, None, :] == 0) & (branches[:, :, None] >= 0)
    return (causal & (same | to_prefix))[:, None]


def collate(sequences: Sequence[Packed], *, pad_id: int, multiple: int = 16) -> Batch:
    """Pads sequences at the end to one length, a multiple of ``multiple``."""
    longest = max(len(s) for s in sequences)
    length = -(-longest // multiple) * multiple

    def padded(rows: Sequence[Sequence[float]], fill: float, dtype: torch.dtype = torch.long) -> torch.Tensor:
        return torch.tensor([[*row, *([fill] * (length - len(row)))] for row in rows], dtype=dtype)

    return Batch(
        input_ids=padded([s.ids for s in sequences], pad_id),
        position_ids=padded([s.positions for s in sequences], 0),
        targets=padded([s.targets for s in sequences], IGNORED),
        weights=padded([s.weights for s in sequences], 0.0, torch.float32),
        mask=attention_mask(padded([s.branches for s in sequences], -1)),
    )
