"""Stop strings, found wherever token borders fall.

The matcher reads text piece by piece and hands on what can no longer be part of a stop string. What it does is the
same however the text is cut: it stops at the first position at which some stop string is complete (of several that end
there, at the longest), and hands on exactly what stands before it.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Watches one text for a set of stop strings."""

    def __init__(self, stops: Sequence[str]) -> None:
        """``stops`` are non-empty; none means that text passes through. Raises :class:`ValueError` on an empty one."""
        if any(not stop for stop in stops):
            raise ValueError("a stop string must not be empty")
        self._stops = tuple(dict.fromkeys(stops))
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Take the next piece and return what is now safe to hand on. After a match (see ``matched``) nothing is."""
        if self.matched is not None:
            return ""
        text = self._held + text
        found = self._first_complete(text)
        if found is not None:
            start, self.matched = found
            self._held = ""
            return text[:start]
        keep = self._longest_possible_prefix(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The text has ended: return what was held back."""
        held, self._held = self._held, ""
        return held

    def _first_complete(self, text: str) -> tuple[int, str] | None:
        best: tuple[int, int, str] | None = None  # end, start, stop: least is first complete, then longest
        for stop in self._stops:
            start = text.find(stop)
            if start >= 0:
                candidate = (start + len(stop), start, stop)
                best = candidate if best is None else min(best, candidate)
        return None if best is None else (best[1], best[2])

    def _longest_possible_prefix(self, text: str) -> int:
        """Length of the longest end of ``text`` that is a proper beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            end = text[len(text) - length :]
            if any(len(stop) > length and stop.startswith(end) for stop in self._stops):
                return length
        return 0
