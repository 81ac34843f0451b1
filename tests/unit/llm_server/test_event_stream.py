from __future__ import annotations

import asyncio
import threading

from llm_server.event_stream import EventStream
from llm_server.faults import EngineClosedFault
from llm_server.sequence import Event, FailedEvent, TokenEvent

EVENTS: list[Event] = [TokenEvent("a", 1), TokenEvent("b", 2), FailedEvent(EngineClosedFault("closed"))]


async def test_events_of_another_thread_come_in_order_and_the_last_ends_the_stream() -> None:
    stream = EventStream()

    def send() -> None:
        for event in [*EVENTS, TokenEvent("late", 3)]:
            stream(event)

    thread = threading.Thread(target=send)
    thread.start()
    assert [event async for event in stream] == EVENTS
    thread.join()


def test_an_event_for_a_loop_that_is_closed_harms_nobody() -> None:
    async def make() -> EventStream:
        return EventStream()

    stream = asyncio.run(make())
    stream(EVENTS[0])
