"""From the engine's thread to an asyncio handler: the events of one sequence, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from llm_server.sequence import Event, TokenEvent


class EventStream:
    """A sink for the engine that is read with ``async for``. Made in the loop that reads it.

    It cannot overflow: a sequence has a bounded number of tokens.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def __call__(self, event: Event) -> None:
        """Take ``event``, from any thread, without blocking."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            # A loop that is closed has nobody who could read; that must not stop the engine's thread.
            if not self._loop.is_closed():
                raise

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Every event up to and including the one that ends the sequence."""
        while True:
            event = await self._events.get()
            yield event
            if not isinstance(event, TokenEvent):
                return
