"""Logits from a transformers causal language model with adapters: prompts in chunks, answers in one shared batch.

Implements :class:`llm_server.engine.ModelRunner` with torch. Rows of the batch may differ in length and in adapters;
each row attends to its own positions only. A prompt is always read on its own, so that its logits do not depend on who
else is being served; a decoded row does depend on the size of its batch, as far as the order of floating-point sums
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_server.adapter_set import AdapterSet
from llm_server.kv_cache import DecodeCache, PromptCache
from llm_server.sequence import AdapterScales


@dataclass
class _Prompt:
    adapters: AdapterScales
    cache: PromptCache


@dataclass
class _Row:
    number: int
    adapters: AdapterScales


@dataclass
class _Batch:
    cache: DecodeCache
    rows: list[_Row] = field(default_factory=list)


class TorchRunner:
    """Serves one model on one device. One caller at a time; each method runs in inference mode."""

    def __init__(self, adapters: AdapterSet, *, context_length: int | None = None) -> None:
        """``context_length`` may be less than the model's own (``max_position_embeddings``), never more."""
        self._adapters = adapters
        self._model: Any = adapters.model
        config = self._model.config
        self._layers = int(config.num_hidden_layers)
        self._vocabulary = int(config.vocab_size)
        own = int(config.max_position_embeddings)
        self._context = own if context_length is None else min(context_length, own)
        self._dtype: torch.dtype = self._model.get_input_embeddings().weight.dtype
        self._device: torch.device = self._model.get_input_embeddings().weight.device
        self._prompts: dict[int, _Prompt] = {}
        self._batch = _Batch(DecodeCache(self._layers))

    @property
    def device(self) -> str:
        """Where it computes: "cpu", "cuda"."""
        return self._device.type

    @property
    def vocabulary_size(self) -> int:
        """Length of a row of logits."""
        return self._vocabulary

    @property
    def context_length(self) -> int:
        """The most positions of one sequence."""
        return self._context

    @torch.inference_mode()
    def prefill(
        self, number: int, tokens: Sequence[int], *, adapters: AdapterScales, last: bool
    ) -> NDArray[np.float32] | None:
        """See :class:`llm_server.engine.ModelRunner`. With ``last`` the sequence joins the batch."""
        prompt = self._prompts.setdefault(number, _Prompt(adapters, PromptCache(self._layers)))
        start, count = prompt.cache.length, len(tokens)
        positions = torch.arange(start, start + count, device=self._device)
        visible = torch.arange(start + count, device=self._device)[None, :] <= positions[:, None]
        self._adapters.apply([prompt.adapters])
        logits = self._forward(
            torch.tensor([list(tokens)], device=self._device),
            positions[None],
            visible[None, None],
            prompt.cache,
        )
        prompt.cache.length += count
        if not last:
            return None
        del self._prompts[number]
        self._batch.cache.join(prompt.cache)
        self._batch.rows.append(_Row(number, prompt.adapters))
        only: NDArray[np.float32] = logits[0]
        return only

    @torch.inference_mode()
    def decode(self, numbers: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """See :class:`llm_server.engine.ModelRunner`. Every sequence of the batch takes part."""
        rows, cache = self._batch.rows, self._batch.cache
        token_of = dict(zip(numbers, tokens, strict=True))
        if len(token_of) != len(rows) or any(row.number not in token_of for row in rows):
            raise ValueError(f"the batch holds {[row.number for row in rows]}, not {list(numbers)}")
        places = cache.begin_step()
        visible = torch.arange(max(cache.lengths) + 1, device=self._device)[None, :] <= places[:, None]
        self._adapters.apply([row.adapters for row in rows])
        logits = self._forward(
            torch.tensor([[token_of[row.number]] for row in rows], device=self._device),
            places[:, None],
            visible[:, None, None, :],
            cache,
        )
        cache.end_step()
        row_of = {row.number: index for index, row in enumerate(rows)}
        ordered: NDArray[np.float32] = logits[[row_of[number] for number in numbers]]
        return ordered

    @torch.inference_mode()
    def release(self, number: int) -> None:
        """Forget a sequence, wherever it is."""
        if self._prompts.pop(number, None) is not None:
            return
        rows = self._batch.rows
        index = next((index for index, row in enumerate(rows) if row.number == number), None)
        if index is None:
            return
        self._batch.cache.leave(index)
        last = rows.pop()
        if index < len(rows):
            rows[index] = last

    def _forward(
        self, tokens: Tensor, positions: Tensor, visible: Tensor, cache: PromptCache | DecodeCache
    ) -> NDArray[np.float32]:
        """Logits after the last of ``tokens`` (B, T): (B, V) float32. ``visible`` (B, 1, T, L) bool is the mask."""
        # Additive, as that is what both of transformers' attention functions take.
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device)
        mask.masked_fill_(~visible, torch.finfo(self._dtype).min)
        output = self._model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits.float().cpu().numpy()
