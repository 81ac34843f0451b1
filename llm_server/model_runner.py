"""Logits from a Llama with adapters: prompts in chunks, answers in one shared batch, keys and values in blocks.

Implements :class:`llm_server.runner.ModelRunner` with torch. Rows of the batch may differ in length and in adapters;
each row attends to its own positions only. A prompt is always read on its own, so that its logits do not depend on who
else is being served; a decoded row does depend on the size of its batch, as far as the order of floating-point sums
does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_server.adapter_set import AdapterSet, AdapterTensors
from llm_server.conditioning import Conditioning
from llm_server.crayon_conditioning import CrayonConditioning
from llm_server.crayon_layers import CrayonEntry, CrayonLayers
from llm_server.kv_store import KvStore
from llm_server.llama_decoder import LlamaDecoder, Placement
from llm_server.runner import DecodeRow
from llm_server.sequence import AdapterScales


class TorchRunner:
    """Serves one model on one device. One caller at a time; each method runs in inference mode."""

    def __init__(
        self,
        adapters: AdapterSet,
        *,
        blocks: int,
        block_size: int = 16,
        context_length: int | None = None,
        pack: bool = True,
        crayon: CrayonLayers | None = None,
    ) -> None:
        """``context_length`` may be less than the model's own (``max_position_embeddings``), never more.

        ``pack``: the model's weights may be taken from it (:mod:`llm_server.projection`). ``crayon``: of prompts that
        have image positions.
        """
        self._adapters = adapters
        self._crayon = crayon
        config = adapters.model.config
        self._vocabulary = int(config.vocab_size)
        own = int(config.max_position_embeddings)
        self._context = own if context_length is None else min(context_length, own)
        embedding: Tensor = adapters.model.get_input_embeddings().weight
        self._dtype, self._device = embedding.dtype, embedding.device
        self._decoder = LlamaDecoder(adapters, positions=self._context, pack=pack)
        self._block_size = block_size
        self._store = self._new_store(blocks)
        # One text at a time is embedded; it has blocks of its own, since its keys and values are not kept.
        self._embedded_most = min(512, self._context)
        self._aside = self._new_store(-(-self._embedded_most // block_size))

    def _new_store(self, blocks: int) -> KvStore:
        return KvStore(
            layers=int(self._adapters.model.config.num_hidden_layers),
            blocks=blocks,
            block_size=self._block_size,
            heads=self._decoder.key_value_heads,
            width=self._decoder.width,
            dtype=self._dtype,
            device=self._device,
        )

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

    @property
    def embedded_most(self) -> int:
        """The most tokens that :meth:`embed` takes."""
        return self._embedded_most

    @torch.inference_mode()
    def prefill(
        self,
        tokens: Sequence[int],
        *,
        start: int,
        blocks: Sequence[int],
        adapters: AdapterScales,
        last: bool,
        conditioning: Conditioning | None = None,
    ) -> NDArray[np.float32] | None:
        """See :class:`llm_server.runner.ModelRunner`."""
        entry = self._entry(conditioning, start, start + len(tokens))
        states = self._read(self._store, tokens, start, blocks, adapters, entry)
        if not last:
            return None
        only: NDArray[np.float32] = self._decoder.logits(states[-1:])[0].float().cpu().numpy()
        return only

    @torch.inference_mode()
    def decode(self, rows: Sequence[DecodeRow]) -> NDArray[np.float32]:
        """See :class:`llm_server.runner.ModelRunner`."""
        size = self._block_size
        self._store.blank([row.blocks[row.position // size] for row in rows if row.position % size == 0])
        states = self._decoder.hidden(
            self._tensor([row.token for row in rows]),
            self._rows_placement(rows),
            self._adapters.factors([row.adapters for row in rows]),
            self._store,
        )
        logits: NDArray[np.float32] = self._decoder.logits(states).float().cpu().numpy()
        return logits

    @torch.inference_mode()
    def embed(self, tokens: Sequence[int], adapters: AdapterScales) -> NDArray[np.float32]:
        """The mean of the final states (after the last norm) over 1 to ``embedded_most`` tokens: (width,) float32."""
        if not 0 < len(tokens) <= self._embedded_most:
            raise ValueError(f"1 to {self._embedded_most} tokens can be embedded, not {len(tokens)}")
        states = self._read(self._aside, tokens, 0, range(self._aside.blocks), adapters)
        mean: NDArray[np.float32] = states.float().mean(dim=0).cpu().numpy()
        return mean

    @torch.inference_mode()
    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """See :class:`llm_server.runner.ModelRunner`."""
        self._store.copy(pairs)

    @torch.inference_mode()
    def add_adapter(self, key: str, tensors: AdapterTensors) -> None:
        """From now on rows may name ``key``. Between two steps only."""
        self._adapters.add(key, tensors)

    @torch.inference_mode()
    def drop_adapter(self, key: str) -> None:
        """See :class:`llm_server.runner.ModelRunner`."""
        self._adapters.drop(key)

    def _read(
        self,
        store: KvStore,
        tokens: Sequence[int],
        start: int,
        blocks: Sequence[int],
        adapters: AdapterScales,
        crayon: CrayonEntry | None = None,
    ) -> Tensor:
        """States (T, width) of ``tokens``, read after what is in the first ``start`` positions of ``blocks``."""
        count, end, size = len(tokens), start + len(tokens), self._block_size
        if end % size and end - count <= end - end % size:
            store.blank([blocks[end // size]])  # the last block, of which only the beginning is written here
        positions = torch.arange(start, end, device=self._device)
        visible = torch.arange(end, device=self._device)[None, :] <= positions[:, None]
        used = list(blocks[: -(-end // size)])
        return self._decoder.hidden(
            self._tensor(tokens),
            Placement(
                positions=positions,
                slots=self._tensor(store.slots(used, start, end)),
                rows=1,
                length=end,
                blocks=self._blocks(used),
                mask=self._additive(visible).repeat(self._decoder.shared, 1)[None, None],
            ),
            self._adapters.factors([adapters]),
            store,
            crayon,
        )

    def _entry(self, conditioning: Conditioning | None, start: int, end: int) -> CrayonEntry | None:
        """What of a crayon prompt stands between positions ``start`` and ``end``."""
        if not isinstance(conditioning, CrayonConditioning):
            return None
        first, after = conditioning.image_part(start, end)
        if first == after:
            return None
        if self._crayon is None:
            raise ValueError("this model has no crayon prompt")
        features = self._crayon.features(
            conditioning.classes,
            conditioning.numbers,
            semantic=conditioning.semantic,
            numbering=conditioning.numbering,
        )
        offset = conditioning.image_start - start
        index = torch.arange(offset + first, offset + after, device=self._device)
        return CrayonEntry(self._crayon, index, features[first:after])

    def _rows_placement(self, rows: Sequence[DecodeRow]) -> Placement:
        size = self._block_size
        lengths = [row.position + 1 for row in rows]
        longest = max(lengths)
        tables = [list(row.blocks[: -(-length // size)]) for row, length in zip(rows, lengths, strict=True)]
        slots = [
            table[row.position // size] * size + row.position % size
            for row, table in zip(rows, tables, strict=True)
        ]
        positions = self._tensor([row.position for row in rows])
        if len(rows) == 1:
            return Placement(positions, self._tensor(slots), 1, longest, self._blocks(tables[0]), None)
        most = -(-longest // size)
        padded = [block for table in tables for block in table + [self._store.nothing] * (most - len(table))]
        mask = None
        if min(lengths) < longest:
            visible = torch.arange(longest, device=self._device)[None, :] <= positions[:, None]
            mask = self._additive(visible)[:, None, None, :]
        return Placement(positions, self._tensor(slots), len(rows), longest, self._tensor(padded), mask)

    def _blocks(self, table: list[int]) -> Tensor | int:
        """A table as :class:`Placement` takes it for one row."""
        follow = table[-1] - table[0] == len(table) - 1 and all(
            after - before == 1 for before, after in itertools.pairwise(table)
        )
        return table[0] if follow else self._tensor(table)

    def _additive(self, visible: Tensor) -> Tensor:
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(~visible, torch.finfo(self._dtype).min)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.long, device=self._device)
