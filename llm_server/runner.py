"""What the engine asks of whatever computes logits. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llm_server.conditioning import Conditioning
from llm_server.sequence import AdapterScales

Logits = NDArray[np.float32]
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """One row of a batch: ``token`` is read at ``position``; ``blocks`` hold it and all before it.

    ``adapters`` are by the runner's own keys.
    """

    token: int
    position: int
    blocks: Sequence[int]
    adapters: AdapterScales


class ModelRunner(Protocol):
    """Computes logits. Keys and values are in numbered blocks, whose use the caller decides. One caller at a time."""

    @property
    def vocabulary_size(self) -> int:
        """Length V of a row of logits."""

    @property
    def context_length(self) -> int:
        """The most positions, prompt and answer together, that a sequence may have."""

    def prefill(
        self,
        tokens: Sequence[int],
        *,
        start: int,
        blocks: Sequence[int],
        adapters: AdapterScales,
        last: bool,
        conditioning: Conditioning | None = None,
    ) -> Logits | None:
        """Read ``tokens`` at positions from ``start`` on, what is before them having been read into ``blocks``.

        ``conditioning`` is of the whole prompt, whatever part of it ``tokens`` are; what cannot be divided comes whole.
        With ``last``: logits (V,) float32 after the final one.
        """

    def decode(self, rows: Sequence[DecodeRow]) -> Logits:
        """Read one token of each row, all at once: logits (B, V) float32."""

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy the content of blocks, (from, to)."""

    def drop_adapter(self, key: str) -> None:
        """Nothing uses the adapter any more. Unknown keys are fine."""
