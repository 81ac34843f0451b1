"""Keys and values of sequences in flight: one store while a prompt is read, one shared by all that write.

Both have the one method that transformers' attention layers call on a cache, ``update``. All tensors are
(rows, key-value heads, positions, head width) in the dtype of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

# Storage grows in blocks of this many positions, so that a token rarely costs a copy.
_BLOCK = 256


def _round_up(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


class PromptCache:
    """Keys and values of one prompt, filled chunk by chunk."""

    def __init__(self, layers: int) -> None:
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self.length = 0

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append ``keys`` and ``values`` (1, H, T, D) to ``layer`` and return all of it, (1, H, length + T, D)."""
        old_keys, old_values = self._keys[layer], self._values[layer]
        if old_keys is not None and old_values is not None:
            keys = torch.cat((old_keys, keys), dim=2)
            values = torch.cat((old_values, values), dim=2)
        self._keys[layer], self._values[layer] = keys, values
        return keys, values

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each (1, H, length, D)."""
        keys, values = self._keys[index], self._values[index]
        if keys is None or values is None:
            raise ValueError(f"layer {index} holds nothing yet")
        return keys, values


@dataclass
class _Layer:
    keys: Tensor
    values: Tensor

    def put(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Fill ``row`` with ``keys`` and ``values`` (H, T, D) and blank the rest of it.

        What is masked still takes part in the sum, times 0: a NaN left by an earlier sequence would spoil this one.
        """
        length = keys.shape[1]
        for store, new in ((self.keys, keys), (self.values, values)):
            store[row, :, :length] = new
            store[row, :, length:] = 0


@dataclass
class DecodeCache:
    """Keys and values of all sequences that write, one row each, rows 0 to B - 1 without gaps.

    ``lengths[r]`` positions of row ``r`` are in use. A step calls :meth:`begin_step`, then the layers call
    :meth:`update` with one position per row, then :meth:`end_step` counts it.
    """

    layers: int
    lengths: list[int] = field(default_factory=list)
    _stores: list[_Layer] = field(default_factory=list)
    _rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    _places: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def join(self, prompt: PromptCache) -> int:
        """Copy a prompt into a new row and return the row."""
        row = len(self.lengths)
        self._reserve(row + 1, prompt.length + 1, like=prompt.layer(0)[0])
        for index, store in enumerate(self._stores):
            keys, values = prompt.layer(index)
            store.put(row, keys[0], values[0])
        self.lengths.append(prompt.length)
        return row

    def leave(self, row: int) -> int | None:
        """Free ``row``. The last row takes its place: returns its old number, or None if ``row`` was the last."""
        last = len(self.lengths) - 1
        moved = None
        if row != last:
            length = self.lengths[last]
            for store in self._stores:
                store.put(row, store.keys[last, :, :length], store.values[last, :, :length])
            self.lengths[row] = length
            moved = last
        self.lengths.pop()
        if not self.lengths:
            self._stores.clear()  # an idle server holds no keys and values
        return moved

    def begin_step(self) -> Tensor:
        """Make room for one more position in each row; returns where it goes, (B,) int64."""
        self._reserve(len(self.lengths), max(self.lengths) + 1, like=self._stores[0].keys)
        device = self._stores[0].keys.device
        self._rows = torch.arange(len(self.lengths), device=device)
        self._places = torch.tensor(self.lengths, device=device)
        return self._places

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Write ``keys`` and ``values`` (B, H, 1, D), each row at its own place; returns (B, H, longest + 1, D)."""
        store, rows, end = self._stores[layer], len(self.lengths), max(self.lengths) + 1
        store.keys[self._rows, :, self._places] = keys[:, :, 0]
        store.values[self._rows, :, self._places] = values[:, :, 0]
        return store.keys[:rows, :, :end], store.values[:rows, :, :end]

    def end_step(self) -> None:
        """Every row has one position more."""
        self.lengths = [length + 1 for length in self.lengths]

    def _reserve(self, rows: int, length: int, *, like: Tensor) -> None:
        """Room for ``rows`` rows of ``length`` positions, what is there kept. New room is zero: masked, but finite."""
        if self._stores:
            have_rows, heads, have_length, width = self._stores[0].keys.shape
            if rows <= have_rows and length <= have_length:
                return
            rows, length = max(rows, have_rows), max(_round_up(length), have_length)
        else:
            heads, width = like.shape[1], like.shape[3]
            length = _round_up(length)
            self._stores = [
                _Layer(like.new_zeros(0, heads, 0, width), like.new_zeros(0, heads, 0, width))
                for _ in range(self.layers)
            ]
        for store in self._stores:
            store.keys = _grown(store.keys, rows, length)
            store.values = _grown(store.values, rows, length)


def _grown(old: Tensor, rows: int, length: int) -> Tensor:
    new = old.new_zeros(rows, old.shape[1], length, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new
