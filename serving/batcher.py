"""Many callers, one device: refuse early, batch what waits, drop who left.

The queue is bounded, and a full one refuses at once. When the device is free it takes what waits, in order
of arrival, up to the batch and cost limits; there is no timer that holds work back in the hope of company.
Callers who have cancelled, and callers whose deadline cannot be met any more, never reach the device.

One event loop, one device thread. Everything but the `run` function executes on the loop: no locks.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.errors import DeadlineUnreachableError, QueueFullError, ShuttingDownError
from serving.latency import LatencyEstimate

T = TypeVar("T")
R = TypeVar("R")

_RETRY_UNKNOWN_S = 0.1  # the hint of a queue that filled up before its first batch came back
_RETRY_LEAST_S = 0.005


@dataclass(frozen=True)
class Batched(Generic[R]):
    """One result, the seconds it waited, the seconds its whole batch ran, and how many shared the batch."""

    result: R
    queue_s: float
    run_s: float
    batch_size: int


@dataclass(eq=False)
class _Entry(Generic[T, R]):
    item: T
    cost: float
    arrived: float
    deadline: float | None
    future: asyncio.Future[Batched[R]]


class Batcher(Generic[T, R]):
    """Batches calls to `run`, which is blocking and maps n items to n results in the same order.

    `max_batch` items at most share a batch; `max_queue` may wait (those on the device do not count). With
    `cost`, a batch also stops below `max_cost` in all; a single item above it runs alone. `cost` must be
    finite and not negative. `estimate` may bring what is known of the device from before.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Sequence[R]],
        *,
        max_batch: int,
        max_queue: int,
        cost: Callable[[T], float] | None = None,
        max_cost: float | None = None,
        estimate: LatencyEstimate | None = None,
    ) -> None:
        if max_batch < 1 or max_queue < 1:
            raise ValueError(f"max_batch and max_queue must be at least 1, not {max_batch} and {max_queue}")
        if (cost is None) != (max_cost is None):
            raise ValueError("cost and max_cost belong together")
        if max_cost is not None and not max_cost > 0:
            raise ValueError(f"max_cost must be positive, not {max_cost}")
        self._run = run
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._cost = cost
        self._max_cost = math.inf if max_cost is None else max_cost
        self._waiting: deque[_Entry[T, R]] = deque()
        self._arrived = asyncio.Event()
        self._estimate = estimate or LatencyEstimate()
        self._busy_until: float | None = None
        self._worker: asyncio.Task[None] | None = None
        self._device = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        self._closing = False

    @property
    def queued(self) -> int:
        """How many wait, those on the device not counted."""
        return len(self._waiting)

    async def submit(self, item: T, *, timeout_s: float | None = None) -> Batched[R]:
        """Run `item` with whatever else waits and return its own result.

        `timeout_s` is how long the caller will wait in all. Raises QueueFullError (with a retry hint),
        DeadlineUnreachableError, ShuttingDownError, or what `run` raised for the batch of this item.
        Cancelling the awaiting task withdraws the item, unless the device has it already.
        """
        if self._closing:
            raise ShuttingDownError("the server is shutting down and takes no new work")
        loop = asyncio.get_running_loop()
        now = loop.time()
        cost = 1.0 if self._cost is None else self._cost(item)
        if not (math.isfinite(cost) and cost >= 0):
            raise ValueError(f"the cost of an item must be finite and not negative, not {cost}")
        if len(self._waiting) >= self._max_queue:
            raise QueueFullError(
                f"the queue is full with {len(self._waiting)} requests",
                metadata={"queued": str(len(self._waiting))},
                retry_after_s=self._drained_in(now),
            )
        deadline = None if timeout_s is None else now + timeout_s
        entry = _Entry[T, R](item, cost, now, deadline, loop.create_future())
        if self._hopeless(entry, start := now + self._turn_in(now)):
            raise self._unreachable(entry, now, start)
        if self._worker is None:
            self._worker = loop.create_task(self._work(), name="batcher")
        self._waiting.append(entry)
        self._arrived.set()
        # A deadline that passes while the device is busy is told at once, not when the device frees.
        alarm = None if deadline is None else loop.call_at(deadline, self._expire, entry)
        try:
            return await entry.future
        finally:
            if alarm is not None:
                alarm.cancel()
            if entry.future.cancelled():
                self._withdraw(entry)

    async def close(self) -> None:
        """Refuse new work, finish what was accepted, give the thread back. May be called more than once."""
        self._closing = True
        self._arrived.set()
        if self._worker is not None:
            # Shielded: a caller that gives up on closing must not take accepted work with it.
            await asyncio.shield(self._worker)
        self._device.shutdown(wait=False)

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            if batch := self._take():
                await self._serve(batch)

    def _take(self) -> list[_Entry[T, R]]:
        """The next batch, in order of arrival; entries nobody waits for are dropped on the way."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        batch: list[_Entry[T, R]] = []
        weight, tightest = 0.0, math.inf
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting[0]
            if entry.future.done():
                self._waiting.popleft()
                continue
            if self._hopeless(entry, now):
                self._waiting.popleft()
                entry.future.set_exception(self._unreachable(entry, now, now))
                continue
            weight += entry.cost
            tightest = min(tightest, math.inf if entry.deadline is None else entry.deadline)
            # Company must neither exceed the budget nor make anybody in the batch late.
            if batch and (weight > self._max_cost or now + self._estimate.seconds(weight) > tightest):
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _serve(self, batch: list[_Entry[T, R]]) -> None:
        loop = asyncio.get_running_loop()
        weight = sum(entry.cost for entry in batch)
        start = loop.time()
        self._busy_until = start + self._estimate.seconds(weight)
        outcome = await loop.run_in_executor(self._device, self._compute, [entry.item for entry in batch])
        self._busy_until = None
        run_s = loop.time() - start
        if isinstance(outcome, Exception):
            for entry in batch:
                if not entry.future.done():
                    entry.future.set_exception(outcome)
            return
        self._estimate.observe(weight, run_s)
        for entry, result in zip(batch, outcome, strict=True):
            if not entry.future.done():
                entry.future.set_result(Batched(result, start - entry.arrived, run_s, len(batch)))

    def _compute(self, items: Sequence[T]) -> Sequence[R] | Exception:
        """On the device thread: results, or what the waiters of this batch shall see raised."""
        try:
            results = self._run(items)
            if len(results) != len(items):
                return RuntimeError(f"a batch of {len(items)} items came back with {len(results)} results")
            return results
        except (StopIteration, asyncio.CancelledError) as error:
            return _carried(error)  # these two have a meaning of their own inside a future
        except Exception as error:
            return error
        except BaseException as error:
            return _carried(error)

    def _hopeless(self, entry: _Entry[T, R], start: float) -> bool:
        """Whether `entry` would be late even if it ran alone at `start`."""
        return entry.deadline is not None and start + self._estimate.seconds(entry.cost) >= entry.deadline

    def _unreachable(self, entry: _Entry[T, R], now: float, start: float) -> DeadlineUnreachableError:
        remaining = max(0.0, (entry.deadline or now) - now)
        needed = start - now + self._estimate.seconds(entry.cost)
        if remaining > 0:
            self._estimate.ease()  # refused on the strength of the estimate alone
        return DeadlineUnreachableError(
            f"{remaining * 1e3:.0f} ms are left, about {needed * 1e3:.0f} ms are needed",
            metadata={"remaining_ms": f"{remaining * 1e3:.0f}", "needed_ms": f"{needed * 1e3:.0f}"},
        )

    def _expire(self, entry: _Entry[T, R]) -> None:
        if self._withdraw(entry) and not entry.future.done():
            now = asyncio.get_running_loop().time()
            entry.future.set_exception(self._unreachable(entry, now, now + self._turn_in(now)))

    def _withdraw(self, entry: _Entry[T, R]) -> bool:
        """Free the place of a waiting entry at once; False if it was not waiting."""
        try:
            self._waiting.remove(entry)
        except ValueError:
            return False
        return True

    def _turn_in(self, now: float) -> float:
        """Seconds until the device takes the batch that one more entry would be in."""
        rest = max(0.0, (self._busy_until or now) - now)
        waiting = sum(entry.cost for entry in self._waiting)
        by_cost = min(len(self._waiting), math.floor(waiting / self._max_cost))
        ahead = max(len(self._waiting) // self._max_batch, by_cost)
        return rest + (ahead * self._estimate.seconds(waiting / ahead) if ahead else 0.0)

    def _drained_in(self, now: float) -> float:
        """Seconds until what waits now has probably run: the retry hint of a refusal."""
        if not self._estimate.known:
            return _RETRY_UNKNOWN_S
        rest = max(0.0, (self._busy_until or now) - now)
        waiting = sum(entry.cost for entry in self._waiting)
        batches = max(math.ceil(len(self._waiting) / self._max_batch), math.ceil(waiting / self._max_cost))
        return max(_RETRY_LEAST_S, rest + batches * self._estimate.seconds(waiting / batches))


def _carried(error: BaseException) -> RuntimeError:
    carrier = RuntimeError(f"the batch ended with {type(error).__name__}")
    carrier.__cause__ = error
    return carrier
