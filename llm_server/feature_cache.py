"""What was computed of a picture or of the experts' words, kept for the next question about the same: least recently
used goes first. Used by the engine's thread alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor


class FeatureCache:
    """Tensors by what they were computed from, within a number of bytes."""

    def __init__(self, capacity: int) -> None:
        """``capacity`` in bytes; 0 keeps nothing."""
        self._capacity = capacity
        self._kept: OrderedDict[tuple[str, bytes], Tensor] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, kind: str, digest: bytes, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of that kind for what ``digest`` names, computed if it is not there."""
        key = (kind, digest)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            self.hits += 1
            return found
        self.misses += 1
        made = compute()
        size = made.numel() * made.element_size()
        if size <= self._capacity:
            self._kept[key] = made
            self.bytes += size
            while self.bytes > self._capacity:
                _, gone = self._kept.popitem(last=False)
                self.bytes -= gone.numel() * gone.element_size()
        return made
