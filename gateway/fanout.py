"""Asks several sources at the same moment, each under its own budget, and hands over what each gave.

Pure asyncio: it knows neither experts nor wire. A source that fails or is late is an entry like any
other; nothing a source does can fail the whole or hold it up beyond that source's budget. Who stops
listening stops the work:

    async with aclosing(fan_out({"ocr": Call(read, budget_s=2.0), ...})) as ended:
        async for end in ended:
            ...
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")


class Ending(Enum):
    """How a call ended."""

    OK = auto()
    FAILED = auto()
    TIMED_OUT = auto()


@dataclass(frozen=True)
class Call(Generic[R]):
    """One call to make.

    Attributes:
        start: begins the call; it is told its budget in seconds, to pass it on to whoever does the work.
        budget_s: seconds after which nobody waits for it any more. Zero or less: it is not begun at all.
    """

    start: Callable[[float], Awaitable[R]]
    budget_s: float


@dataclass(frozen=True)
class Ended(Generic[K, R]):
    """The end of one call.

    Attributes:
        key: which call.
        ending: how it ended.
        result: what it gave; None unless the ending is OK.
        error: what it raised; None if the ending is OK, and None when the budget ended here.
        elapsed_s: from its start to its end, in seconds.
        budget_s: the budget it ran under.
    """

    key: K
    ending: Ending
    result: R | None
    error: BaseException | None
    elapsed_s: float
    budget_s: float


async def fan_out(calls: Mapping[K, Call[R]]) -> AsyncGenerator[Ended[K, R], None]:
    """Begin all ``calls`` in one go, then yield each one's end in the order in which they end.

    A call that is still running when its budget ends is cancelled and yielded as TIMED_OUT, without
    waiting for what it does about the cancellation. Closing the generator, or cancelling the task that
    iterates over it, cancels all that still run. A consumer that is slow to come back for more does not
    count against the calls.
    """
    clock = time.perf_counter
    loop = asyncio.get_running_loop()
    ends: asyncio.Queue[Ended[K, R]] = asyncio.Queue()
    running: dict[K, asyncio.Task[None]] = {}
    begun = clock()

    def end(key: K, ending: Ending, result: R | None = None, error: BaseException | None = None) -> None:
        if running.pop(key, None) is not None:  # else nobody waits for it any more
            ends.put_nowait(Ended(key, ending, result, error, clock() - begun, calls[key].budget_s))

    async def run(key: K, call: Call[R]) -> None:
        try:
            end(key, Ending.OK, await call.start(call.budget_s))
        except asyncio.CancelledError as error:
            if key not in running:
                raise
            # Nobody here cancelled it: the call gave itself up, which is a failure like any other.
            end(key, Ending.FAILED, error=error)
        except TimeoutError as error:
            end(key, Ending.TIMED_OUT, error=error)
        except Exception as error:
            end(key, Ending.FAILED, error=error)

    def give_up(key: K) -> None:
        if (task := running.get(key)) is not None:
            end(key, Ending.TIMED_OUT)
            task.cancel()

    timers = []
    for key, call in calls.items():
        if call.budget_s > 0:
            running[key] = asyncio.create_task(run(key, call))
            timers.append(loop.call_later(call.budget_s, give_up, key))
        else:
            ends.put_nowait(Ended(key, Ending.TIMED_OUT, None, None, 0.0, call.budget_s))
    try:
        for _ in calls:
            yield await ends.get()
    finally:
        for timer in timers:
            timer.cancel()
        left = list(running.values())
        running.clear()
        for task in left:
            task.cancel()
