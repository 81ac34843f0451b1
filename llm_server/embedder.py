"""A question as a vector, for stores that look up what is near it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from llm_server.adapter_registry import AdapterRegistry
from llm_server.engine import Engine
from llm_server.faults import QueueFullFault
from llm_server.runner import Vector
from llm_server.sequence import AdapterScales

# Each waits for a step and takes the time of one: more at once than this would be felt by those that stream.
_MOST_WAITING = 16
_RETRY_AFTER_S = 0.5


class EmbeddingRunner(Protocol):
    """What computes it."""

    @property
    def embedded_most(self) -> int:
        """The most tokens at once."""

    def embed(self, tokens: Sequence[int], adapters: AdapterScales) -> Vector:
        """The mean of the final states over ``tokens``, float32."""


class Embedder:
    """Embeds texts between the steps of an engine."""

    def __init__(self, engine: Engine, registry: AdapterRegistry, runner: EmbeddingRunner) -> None:
        self._engine = engine
        self._registry = registry
        self._runner = runner
        self._places = threading.BoundedSemaphore(_MOST_WAITING)

    @property
    def limit(self) -> int:
        """The most tokens of a text."""
        return self._runner.embedded_most

    def submit(self, tokens: Sequence[int], adapters: AdapterScales) -> Future[Vector]:
        """Embed 1 to ``limit`` tokens. ``adapters`` by name; an unknown one fails the future.

        Raises :class:`QueueFullFault` and :class:`EngineClosedFault`.
        """
        if not self._places.acquire(blocking=False):
            raise QueueFullFault(_MOST_WAITING, _RETRY_AFTER_S)
        try:
            future = self._engine.call(lambda: self._runner.embed(tokens, self._registry.resolve(adapters)))
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())
        return future
