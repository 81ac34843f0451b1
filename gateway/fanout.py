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
    iterates over it, cancels all that still run.
    """
    clock = time.perf_counter
    ends: dict[K, float] = {}

    async def run(key: K, call: Call[R]) -> R:
        try:
            return await call.start(call.budget_s)
        finally:
            # Here, not where it is yielded: the consumer may be slow to come back for more.
            ends[key] = clock()

    begun = clock()
    running: dict[asyncio.Task[R], tuple[K, float]] = {}
    for key, call in calls.items():
        if call.budget_s > 0:
            task = asyncio.create_task(run(key, call))
            task.add_done_callback(_retrieve)
            running[task] = (key, call.budget_s)
    try:
        for key, call in calls.items():
            if call.budget_s <= 0:
                yield Ended(key, Ending.TIMED_OUT, None, None, 0.0, call.budget_s)
        while running:
            left = min(budget for _, budget in running.values()) - (clock() - begun)
            done, _ = await asyncio.wait(running, timeout=max(left, 0.0), return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: ends[running[task][0]]):
                key, budget_s = running.pop(task)
                yield _ended(task, key, ends[key] - begun, budget_s)
            elapsed = clock() - begun
            for task, (key, budget_s) in list(running.items()):
                if budget_s <= elapsed and not task.done():
                    del running[task]
                    task.cancel()
                    yield Ended(key, Ending.TIMED_OUT, None, None, elapsed, budget_s)
    finally:
        for task in running:
            task.cancel()


def _retrieve(task: asyncio.Task[R]) -> None:
    """Read the exception of a call that nobody may be waiting for, which asyncio would complain about."""
    if not task.cancelled():
        task.exception()


def _ended(task: asyncio.Task[R], key: K, elapsed_s: float, budget_s: float) -> Ended[K, R]:
    if task.cancelled():
        # Nobody here cancelled it: the call gave itself up, which is a failure like any other.
        return Ended(key, Ending.FAILED, None, asyncio.CancelledError(), elapsed_s, budget_s)
    error = task.exception()
    if error is None:
        return Ended(key, Ending.OK, task.result(), None, elapsed_s, budget_s)
    ending = Ending.TIMED_OUT if isinstance(error, TimeoutError) else Ending.FAILED
    return Ended(key, ending, None, error, elapsed_s, budget_s)
