"""What can go wrong inside the engine, in its own words. The service puts these on the wire."""

from __future__ import annotations


class QueueFullFault(Exception):
    """No room to wait. ``retry_after_s`` is when there may be some; ``queued`` how many wait."""

    def __init__(self, queued: int, retry_after_s: float) -> None:
        super().__init__(f"{queued} requests are waiting already")
        self.queued = queued
        self.retry_after_s = retry_after_s


class EngineClosedFault(Exception):
    """The engine takes no new work, or gave up what it had because it was closed."""


class DeadlineFault(Exception):
    """The caller's deadline came before the answer was complete."""


class GenerationFault(Exception):
    """The model failed on this sequence; the cause is chained."""


class TooLongFault(Exception):
    """Prompt and answer together could never be held, even with everything to themselves."""


class UnknownAdapterFault(Exception):
    """No adapter of that name is loaded. ``name`` is what was asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no adapter {name!r} is loaded")
        self.name = name


class ConstraintFault(Exception):
    """The form that was asked for is too much to follow, or to compile."""
