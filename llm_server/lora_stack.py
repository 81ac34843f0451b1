"""All adapters of one linear layer (or of several that share their input) as one low-rank product.

Their A matrices stand on one another, their B matrices beside one another, so that for rows x

    y = x W^T + ((x A^T) * f) B^T

adds every adapter of every row at once. ``f`` holds one factor per row and column of rank: rows with different
adapters differ in nothing else, and a row whose factors are 0 gets exactly the base. Linear layers that share their
input (query, key and value; gate and up) are fused: their B matrices stand in blocks of one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_server.projection import packable, packed


@dataclass(frozen=True, slots=True)
class LowRankPair:
    """One adapter on one linear layer: ``a`` (rank, in), ``b`` (out, rank), times ``scaling``."""

    a: Tensor
    b: Tensor
    scaling: float


class LoraStack:
    """The stack for ``outs``: widths of the outputs of the linear layers that share an input of width ``width``.

    ``a`` is (layers * ranks, in), ``b`` (layers * ranks, out): None while no adapter sits on any of the layers.
    """

    def __init__(self, width: int, outs: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> None:
        self._width = width
        self._outs = tuple(outs)
        self._dtype, self._device = dtype, device
        self._ranks = 0
        self.a: Tensor | None = None
        self.b: Tensor | None = None
        self._packed: tuple[Tensor, Tensor] | None = None

    @property
    def layers(self) -> int:
        """How many linear layers share the input."""
        return len(self._outs)

    def append(self, rank: int, pairs: Mapping[int, LowRankPair]) -> None:
        """Add an adapter's ``rank`` columns; ``pairs`` by the layer's place, those that it leaves alone missing."""
        if not pairs and self.a is None:
            self._ranks += rank
            return
        a, b = self._grown(self._ranks + rank)
        for place, pair in pairs.items():
            rows = slice(self._ranks, self._ranks + rank)
            a[place, rows] = pair.a
            b[place, rows, self._columns(place)] = (pair.b.float() * pair.scaling).t().to(self._dtype)
        self._keep(a, b)

    def remove(self, start: int, rank: int) -> None:
        """Take out ``rank`` columns from ``start`` on."""
        stay = [*range(start), *range(start + rank, self._ranks)]
        self._ranks = len(stay)
        if self.a is None or self.b is None:
            return
        a = self.a.view(self.layers, -1, self._width)[:, stay]
        b = self.b.view(self.layers, len(stay) + rank, -1)[:, stay]
        if not stay or not a.any():
            self.a = self.b = self._packed = None
        else:
            self._keep(a, b)

    def add_to(self, out: Tensor, x: Tensor, factors: Tensor | None) -> Tensor:
        """``out`` (N, sum of outs) with what the adapters make of ``x`` (N, in) added; ``out`` itself may be changed.

        ``factors`` (N, layers * ranks); None: all are 1.
        """
        if self.a is None or self.b is None:
            return out
        if self._packed is not None:
            a, b = self._packed
            low: Tensor = torch.ops.mkldnn._linear_pointwise(x, a, None, "none", [], "")
            if factors is not None:
                low.mul_(factors)
            summed: Tensor = torch.ops.mkldnn._linear_pointwise.binary(low, out, b, None, "add")
            return summed
        low = torch.nn.functional.linear(x, self.a)
        if factors is not None:
            low.mul_(factors)
        return out.addmm_(low, self.b)

    def _grown(self, ranks: int) -> tuple[Tensor, Tensor]:
        a = torch.zeros(self.layers, ranks, self._width, dtype=self._dtype, device=self._device)
        b = torch.zeros(self.layers, ranks, sum(self._outs), dtype=self._dtype, device=self._device)
        if self.a is not None and self.b is not None:
            a[:, : self._ranks] = self.a.view(self.layers, self._ranks, -1)
            b[:, : self._ranks] = self.b.view(self.layers, self._ranks, -1)
        return a, b

    def _columns(self, place: int) -> slice:
        start = sum(self._outs[:place])
        return slice(start, start + self._outs[place])

    def _keep(self, a: Tensor, b: Tensor) -> None:
        self._ranks = a.shape[1]
        self.a = a.reshape(-1, a.shape[2]).contiguous()
        self.b = b.reshape(-1, b.shape[2]).contiguous()
        if packable(self.a):
            self._packed = packed(self.a), packed(self.b.t())
