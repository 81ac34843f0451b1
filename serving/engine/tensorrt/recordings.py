"""Runs recorded as CUDA graphs: which shapes are worth recording, and which recordings are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.engine.protocol import EngineError

if TYPE_CHECKING:
    import tensorrt_rtx as types

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Key = tuple[int, Shapes]
"""A profile and the input shapes that are run under it."""
# How many shapes are remembered as seen once, for each recording that is kept.
_SEEN = 8


@dataclass
class Recorded:
    """One set of input shapes under one profile: what comes out, how to run it again, and what that uses."""

    outputs: dict[str, tuple[int, ...]]
    replay: Callable[[], None]
    context: types.IExecutionContext | None

    def release(self) -> None:
        """Let the recording go, then the context whose memory it uses. The stream must be empty."""
        self.replay = _released
        self.context = None


class Recordings:
    """At most `most` recordings, the least recently used going first; 0 keeps none."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Key, Recorded] = OrderedDict()
        self._seen: OrderedDict[Key, None] = OrderedDict()

    def find(self, key: Key) -> Recorded | None:
        """The recording of `key`, which is now the one used last."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def worthwhile(self, key: Key) -> bool:
        """Whether `key` has come before, lately, and recordings are made at all."""
        if self._most and key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > _SEEN * self._most:
            self._seen.popitem(last=False)
        return False

    def keep(self, key: Key, recorded: Recorded) -> None:
        """Keep it, and let go what is too many. The stream must be empty."""
        self._kept[key] = recorded
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)[1].release()

    def stop(self) -> None:
        """Make no more; those that are kept stay."""
        self._most = 0

    def clear(self) -> None:
        """Let all go. The stream must be empty."""
        while self._kept:
            self._kept.popitem()[1].release()


def _released() -> None:
    raise EngineError("this recording was let go")
