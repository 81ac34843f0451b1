"""Keys and values in numbered blocks, as the layers of CoLLaVO and MoAI want them: for one pass over a few rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llm_server.kv_store import KvStore


class PagedPass:
    """Implements :class:`llm_server.models.internlm2.KeyValueCache` over the blocks of ``rows`` sequences.

    Each row writes the same number of positions, and sees the ``length`` first of its table; what it must not see of
    those is the caller's to mask.
    """

    def __init__(
        self,
        store: KvStore,
        tables: Sequence[Sequence[int]],
        spans: Sequence[tuple[int, int]],
        device: torch.device,
    ) -> None:
        """``tables`` are the rows' blocks; ``spans`` the positions (first, last + 1) that each row writes."""
        self._store = store
        self.length = max(end for _, end in spans)
        size = store.block_size
        slots = [
            slot
            for table, (start, end) in zip(tables, spans, strict=True)
            for slot in store.slots(table, start, end)
        ]
        most = -(-self.length // size)
        used = [
            [*table[: -(-end // size)], *[store.nothing] * (most - -(-end // size))]
            for table, (_, end) in zip(tables, spans, strict=True)
        ]
        # Blocks in which a row's writing begins hold what an earlier sequence left behind it: masked, but not harmless.
        store.blank(
            [
                table[block]
                for table, (start, end) in zip(tables, spans, strict=True)
                for block in range(-(-start // size), -(-end // size))
            ]
        )
        self._rows = len(used)
        self._slots = torch.tensor(slots, dtype=torch.long, device=device)
        self._tables = torch.tensor([block for row in used for block in row], dtype=torch.long, device=device)

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> tuple[Tensor, Tensor]:
        """Write keys and values (B, heads, T, width) of the pass; returns all up to ``length``, same layout."""
        rows = (part.transpose(1, 2).flatten(0, 1).flatten(1) for part in (keys, values))
        self._store.write(layer, self._slots, torch.cat(tuple(rows), dim=1))
        return self._store.read(layer, self._tables, self._rows, self.length)
