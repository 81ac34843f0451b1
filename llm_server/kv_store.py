"""The memory of keys and values: blocks of positions, for all layers, allocated once.

Which block belongs to whom is decided elsewhere (:mod:`llm_server.kv_cache`). A position takes 2 * heads * width values
a layer: its keys, then its values. Two blocks more than are handed out: one stands for "nothing", and is all zero; the
other takes what nobody wants to read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KvStore:
    """Storage for ``blocks`` blocks of ``block_size`` positions."""

    def __init__(
        self,
        *,
        layers: int,
        blocks: int,
        block_size: int,
        heads: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """``heads`` key-value heads of ``width``. Memory that was never written takes no room on a CPU."""
        self.blocks = blocks
        self.block_size = block_size
        self._heads, self._width = heads, width
        self._memory = torch.zeros(
            layers, blocks + 2, block_size, 2 * heads * width, dtype=dtype, device=device
        )
        self._by_slot = [layer.view(-1, 2 * heads * width) for layer in self._memory]
        self._by_block = [layer.view(blocks + 2, -1) for layer in self._memory]
        self._scratch = torch.empty(0, dtype=dtype, device=device)

    @property
    def nothing(self) -> int:
        """The number of the block that is all zero."""
        return self.blocks

    @property
    def aside(self) -> int:
        """The number of the block that is written to for nobody."""
        return self.blocks + 1

    def slots(self, blocks: Sequence[int], start: int, end: int) -> list[int]:
        """Where positions ``start`` to ``end`` of a table are."""
        size = self.block_size
        return [blocks[position // size] * size + position % size for position in range(start, end)]

    def blank(self, blocks: Sequence[int]) -> None:
        """Set blocks to zero, before their first position is written.

        What is masked still takes part in sums, times 0: a NaN left by an earlier sequence would spoil this one.
        """
        if blocks:
            self._memory[:, torch.tensor(blocks, device=self._memory.device)] = 0

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy the content of blocks, (from, to)."""
        sources, targets = torch.tensor(pairs, device=self._memory.device).T
        self._memory[:, targets] = self._memory[:, sources]

    def write(self, layer: int, slots: Tensor, values: Tensor) -> None:
        """``values`` (N, 2 * heads * width) go to ``slots`` (N,) int64."""
        self._by_slot[layer].index_copy_(0, slots, values)

    def read(self, layer: int, tables: Tensor | int, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values, (rows, heads, length, width) each.

        ``tables`` (rows * blocks,) int64: what is returned is a copy, in memory that the next call uses again. Or the
        first of blocks that follow one another, for one row: nothing is copied.
        """
        if isinstance(tables, int):
            start = tables * self.block_size
            return self._split(self._by_slot[layer][start : start + length][None])
        store = self._by_block[layer]
        size = tables.numel() * store.shape[1]
        if self._scratch.numel() < size:
            self._scratch = torch.empty(size, dtype=store.dtype, device=store.device)
        out = self._scratch[:size].view(tables.numel(), store.shape[1])
        torch.index_select(store, 0, tables, out=out)
        return self._split(out.view(rows, -1, 2 * self._heads * self._width)[:, :length])

    def gather(self, layer: int, tables: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """As :meth:`read` for all positions of ``tables``, into memory of its own."""
        found = self._by_block[layer].index_select(0, tables)
        return self._split(found.view(rows, -1, 2 * self._heads * self._width))

    def _split(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        rows, length, _ = positions.shape
        both = positions.view(rows, length, 2, self._heads, self._width)
        return both[:, :, 0].transpose(1, 2), both[:, :, 1].transpose(1, 2)
