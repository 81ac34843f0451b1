"""Greedy and beam decoding of a batch, step by step over a cache that grows: what parity and evaluation decode with.

The server's engine has its own loop; the choice of tokens is the same.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llm_server.models.prompt_batch import PromptBatch
from llm_server.models.vision_language import VisionLanguageModel


class GrowingCache:
    """Keys and values of a batch, one tensor a layer, longer by what each step adds."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> tuple[Tensor, Tensor]:
        """Append (B, heads, T, D) to a layer; returns all of it."""
        if layer in self._layers:
            old_keys, old_values = self._layers[layer]
            keys, values = torch.cat((old_keys, keys), dim=2), torch.cat((old_values, values), dim=2)
        self._layers[layer] = (keys, values)
        return keys, values

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys (after rotation) and values of a layer, (B, heads, L, D) each."""
        return self._layers[index]

    def select(self, rows: Tensor) -> None:
        """Make the batch consist of ``rows`` (B',) int64 of it, repeated or reordered."""
        self._layers = {index: (keys[rows], values[rows]) for index, (keys, values) in self._layers.items()}


class Session(Protocol):
    """A batch of prompts that have been read, and what follows them."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token (B,) to each row; logits (B, V) of what comes next."""

    def select(self, rows: Tensor) -> None:
        """Make the batch consist of ``rows`` (B',) int64 of it, repeated or reordered."""


class DecodingSession:
    """A batch of prompts that have been read into ``cache``, and what follows them."""

    def __init__(self, model: VisionLanguageModel, batch: PromptBatch, cache: GrowingCache) -> None:
        self._model, self._cache = model, cache
        self._valid = batch.valid.to(model.device)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Append one token (B,) to each row; logits (B, V) of what comes next."""
        position = self._valid.shape[1]
        self._valid = torch.cat((self._valid, self._valid.new_ones(len(tokens), 1)), dim=1)
        return self._model.write(
            tokens[:, None],
            positions=torch.full((len(tokens), 1), position, device=tokens.device),
            visible=self._valid[:, None, None, :],
            cache=self._cache,
        )

    def select(self, rows: Tensor) -> None:
        """Make the batch consist of ``rows`` (B',) int64 of it."""
        self._valid = self._valid[rows]
        self._cache.select(rows)


@dataclass(frozen=True)
class GreedyAnswer:
    """``ids`` (B, n) int64, rows that stopped early filled up with the stop token; ``lengths`` (B,) count a row's own
    tokens, the stop token among them; ``logits`` (B, n, V) are what each token was chosen from."""

    ids: Tensor
    lengths: tuple[int, ...]
    logits: Tensor


def greedy(session: Session, first: Tensor, *, stop: Set[int], max_new: int, fill: int) -> GreedyAnswer:
    """The likeliest token, step by step.

    Args:
        session: prompts, read.
        first: (B, V) logits after the prompts.
        stop: ids that end a row.
        max_new: tokens at most, at least 1.
        fill: id that rows which have ended go on with until all have.
    """
    logits, ids, rows = [first], [first.argmax(dim=-1)], len(first)
    lengths = [max_new] * rows
    running = set(range(rows))
    while True:
        for row in sorted(running):
            if int(ids[-1][row]) in stop:
                running.remove(row)
                lengths[row] = len(ids)
        if not running or len(ids) == max_new:
            return GreedyAnswer(torch.stack(ids, dim=1), tuple(lengths), torch.stack(logits, dim=1))
        logits.append(session.step(ids[-1]))
        chosen = logits[-1].argmax(dim=-1)
        for row in set(range(rows)) - running:
            chosen[row] = fill
        ids.append(chosen)
