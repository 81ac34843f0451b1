"""Many callers, one device: refuse early, batch what waits, drop who left.

The queue is bounded, and a full one refuses at once. When the device is free it takes the most urgent of what waits and
whatever may share a batch with it, up to the batch and cost limits; there is no timer that holds work back in the hope
of company. Urgent is who has the earlier deadline; who has none, or a distant one, counts as due `patience_s` after
arriving, so that nobody is overtaken by anybody who arrives later than that. Callers who have cancelled, and callers
whose deadline cannot be met any more, never reach the device.

Company costs those aboard time and saves the device the part of a batch that does not grow with it. How much that is,
is learned from the batches that run (`serving.latency`); where it is next to nothing, as on most CPUs, everyone runs
alone and is answered sooner.

Who finds the device idle may visit it: prepare, run and post-process on its thread, with one hand-over between threads
there and back instead of three (`Batcher.visit`). Each costs a tenth of a millisecond, more where cores sleep.

One event loop, one device thread. Everything but the `run` function, and visits, executes on the loop: no locks.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import math
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from serving.errors import DeadlineUnreachableError, QueueFullError, ShuttingDownError
from serving.latency import LatencyEstimate

T = TypeVar("T")
R = TypeVar("R")
V = TypeVar("V")

_RETRY_UNKNOWN_S = 0.1  # the hint of a queue that filled up before its first batch came back
_RETRY_LEAST_S = 0.005
_WORTHWHILE = 0.05  # of an item's own time must be saved by sharing a batch


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
    group: Hashable
    arrived: float
    deadline: float | None
    place: tuple[float, int]  # when it is due, and its number among equals
    future: asyncio.Future[Batched[R]]


@dataclass
class _Load:
    """A batch that is yet to run, as far as a forecast needs it."""

    size: int
    weight: float


class Batcher(Generic[T, R]):
    """Batches calls to `run`, which is blocking and maps n items to n results in the same order.

    `max_batch` items at most share a batch; `max_queue` may wait (those on the device do not count). `cost` says how
    much of the device an item takes, in any unit (an item counts 1 without it): what a batch will take is told from
    the sum, and with `max_cost` a batch stops below that sum; a single item above it runs alone. `cost` must be
    finite and not negative. Only items of equal `group` share a batch. `patience_s`: see the module. `estimate` may
    bring what is known of the device from before.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Sequence[R]],
        *,
        max_batch: int,
        max_queue: int,
        cost: Callable[[T], float] | None = None,
        max_cost: float | None = None,
        group: Callable[[T], Hashable] | None = None,
        patience_s: float = 2.0,
        estimate: LatencyEstimate | None = None,
    ) -> None:
        if max_batch < 1 or max_queue < 1:
            raise ValueError(f"max_batch and max_queue must be at least 1, not {max_batch} and {max_queue}")
        if cost is None and max_cost is not None:
            raise ValueError("max_cost without cost")
        if max_cost is not None and not max_cost > 0:
            raise ValueError(f"max_cost must be positive, not {max_cost}")
        if not (math.isfinite(patience_s) and patience_s >= 0):
            raise ValueError(f"patience_s must be finite and not negative, not {patience_s}")
        self._run = run
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._cost = cost
        self._max_cost = math.inf if max_cost is None else max_cost
        self._group = group
        self._patience_s = patience_s
        self._waiting: list[_Entry[T, R]] = []  # by place
        self._numbers = itertools.count()
        self._arrived = asyncio.Event()
        self._estimate = estimate or LatencyEstimate()
        self._busy_until: float | None = None
        self._worker: asyncio.Task[None] | None = None
        self._visitor: asyncio.Future[None] | None = None
        self._device = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        self._closing = False

    @property
    def queued(self) -> int:
        """How many wait, those on the device not counted."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, nothing runs and nobody visits."""
        return not (self._closing or self._waiting or self._visitor or self._busy_until is not None)

    async def visit(self, work: Callable[[Callable[[Sequence[T], float | None], Sequence[R]]], V]) -> V:
        """Call `work(run)` on the device thread and return its result; only while the device is idle.

        `run(items, timeout_s)` is a batch of those items, at once; it raises DeadlineUnreachableError if that takes
        longer than `timeout_s`, and what the batcher's own `run` raises. Whoever submits meanwhile waits for the end of
        the visit, so `work` should be short besides. Cancelling the awaiting task does not end a visit: `work` may
        look whether anybody still waits for it.

        Raises RuntimeError if the device is not idle, ShuttingDownError, or what `work` raised.
        """
        if self._closing:
            raise ShuttingDownError("the server is shutting down and takes no new work")
        if not self.idle:
            raise RuntimeError("only an idle device can be visited")
        runs: list[tuple[float, float | None]] = []
        loop = asyncio.get_running_loop()
        told: asyncio.Future[V | Exception] = loop.create_future()
        # Two futures: the thread goes on if the caller leaves, and holds the device until it ends.
        ended: asyncio.Future[None] = loop.create_future()

        def end(outcome: V | Exception) -> None:
            self._visited(runs)
            ended.set_result(None)
            if not told.done():
                told.set_result(outcome)

        def visit() -> None:
            # One wake-up of the loop, and not one for each of two futures in a chain as `run_in_executor` has it.
            loop.call_soon_threadsafe(end, _outcome(lambda: work(partial(self._run_now, runs))))

        self._visitor = ended
        self._device.submit(visit)
        outcome = await told
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

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
        cost = self._cost_of(item)
        if len(self._waiting) >= self._max_queue:
            raise QueueFullError(
                f"the queue is full with {len(self._waiting)} requests",
                metadata={"queued": str(len(self._waiting))},
                retry_after_s=self._drained_in(now),
            )
        deadline = None if timeout_s is None else now + timeout_s
        entry = _Entry[T, R](
            item,
            cost,
            None if self._group is None else self._group(item),
            now,
            deadline,
            (min(now + self._patience_s, math.inf if deadline is None else deadline), next(self._numbers)),
            loop.create_future(),
        )
        if deadline is not None and self._hopeless(entry, start := now + self._turn_in(entry, now)):
            raise self._unreachable(entry, now, start)
        if self._worker is None:
            self._worker = loop.create_task(self._work(), name="batcher")
        bisect.insort(self._waiting, entry, key=_place)
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
        for accepted in (self._visitor, self._worker):
            if accepted is not None:
                # Shielded: a caller that gives up on closing must not take accepted work with it.
                await asyncio.shield(accepted)
        self._device.shutdown(wait=False)

    async def _work(self) -> None:
        while True:
            while not self._waiting or self._visitor is not None:
                if self._closing and not self._waiting:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            if batch := self._take():
                await self._serve(batch)

    def _take(self) -> list[_Entry[T, R]]:
        """The next batch, most urgent first; entries nobody waits for are dropped."""
        now = asyncio.get_running_loop().time()
        self._drop_lost(now)
        batch: list[_Entry[T, R]] = []
        weight, tightest = 0.0, math.inf
        for entry in self._waiting:
            if batch and entry.group != batch[0].group:
                continue
            weight += entry.cost
            tightest = min(tightest, math.inf if entry.deadline is None else entry.deadline)
            # Company must pay, not exceed the budget, and make nobody in the batch late.
            if batch and (
                not self._pays(entry.cost)
                or weight > self._max_cost
                or now + self._estimate.seconds(weight) > tightest
            ):
                break
            batch.append(entry)
            if len(batch) == self._max_batch:
                break
        aboard = {entry.place for entry in batch}
        self._waiting = [entry for entry in self._waiting if entry.place not in aboard]
        return batch

    def _drop_lost(self, now: float) -> None:
        """Drop those who have left, and tell those who would be late even if they ran alone and now."""
        staying = []
        for entry in self._waiting:
            if entry.future.done():
                continue
            if self._hopeless(entry, now):
                entry.future.set_exception(self._unreachable(entry, now, now))
            else:
                staying.append(entry)
        self._waiting = staying

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
        return _outcome(lambda: self._results(items))

    def _results(self, items: Sequence[T]) -> Sequence[R]:
        results = self._run(items)
        if len(results) != len(items):
            raise RuntimeError(f"a batch of {len(items)} items came back with {len(results)} results")
        return results

    def _run_now(
        self, runs: list[tuple[float, float | None]], items: Sequence[T], timeout_s: float | None
    ) -> Sequence[R]:
        """On the device thread, within a visit: a batch. Its weight and seconds are added to `runs`; None: refused."""
        weight = sum(self._cost_of(item) for item in items)
        needed = self._estimate.seconds(weight)
        if timeout_s is not None and needed >= timeout_s:
            runs.append((weight, None))
            raise _too_late(timeout_s, needed)
        start = time.monotonic()  # the clock of the event loop
        self._busy_until = start + needed
        results = self._results(items)
        runs.append((weight, time.monotonic() - start))
        return results

    def _visited(self, runs: Iterable[tuple[float, float | None]]) -> None:
        """Back on the loop: learn from what ran, and let in who waits."""
        for weight, run_s in runs:
            if run_s is None:
                self._estimate.ease()  # refused on the strength of the estimate alone
            else:
                self._estimate.observe(weight, run_s)
        self._visitor = self._busy_until = None
        self._arrived.set()

    def _cost_of(self, item: T) -> float:
        cost = 1.0 if self._cost is None else self._cost(item)
        if not (math.isfinite(cost) and cost >= 0):
            raise ValueError(f"the cost of an item must be finite and not negative, not {cost}")
        return cost

    def _pays(self, cost: float) -> bool:
        """Whether an item of `cost` saves the device time by joining a batch instead of running alone."""
        return self._estimate.fixed_s >= _WORTHWHILE * self._estimate.seconds(cost)

    def _hopeless(self, entry: _Entry[T, R], start: float) -> bool:
        """Whether `entry` would be late even if it ran alone at `start`."""
        return entry.deadline is not None and start + self._estimate.seconds(entry.cost) >= entry.deadline

    def _unreachable(self, entry: _Entry[T, R], now: float, start: float) -> DeadlineUnreachableError:
        remaining = max(0.0, (entry.deadline or now) - now)
        needed = start - now + self._estimate.seconds(entry.cost)
        if remaining > 0:
            self._estimate.ease()  # refused on the strength of the estimate alone
        return _too_late(remaining, needed)

    def _expire(self, entry: _Entry[T, R]) -> None:
        if self._withdraw(entry) and not entry.future.done():
            now = asyncio.get_running_loop().time()
            entry.future.set_exception(self._unreachable(entry, now, now + self._turn_in(entry, now)))

    def _withdraw(self, entry: _Entry[T, R]) -> bool:
        """Free the place of a waiting entry at once; False if it was not waiting."""
        try:
            self._waiting.remove(entry)
        except ValueError:
            return False
        return True

    def _turn_in(self, entry: _Entry[T, R], now: float) -> float:
        """Seconds until the device takes the batch that `entry` is, or would be, in."""
        ahead = itertools.takewhile(lambda other: other.place < entry.place, self._waiting)
        loads, own = self._forecast((*ahead, entry))
        return self._rest(now) + sum(self._estimate.seconds(load.weight) for load in loads[:own])

    def _drained_in(self, now: float) -> float:
        """Seconds until what waits now has probably run: the retry hint of a refusal."""
        if not self._estimate.known:
            return _RETRY_UNKNOWN_S
        loads, _ = self._forecast(self._waiting)
        seconds = self._rest(now) + sum(self._estimate.seconds(load.weight) for load in loads)
        return max(_RETRY_LEAST_S, seconds)

    def _rest(self, now: float) -> float:
        return max(0.0, (self._busy_until or now) - now)

    def _forecast(self, entries: Iterable[_Entry[T, R]]) -> tuple[list[_Load], int]:
        """The batches that `entries`, by place, will make, in their order, and which one the last of them is in."""
        loads: list[_Load] = []
        newest: dict[Hashable, int] = {}
        own = 0
        for entry in entries:
            own = newest.get(entry.group, len(loads))
            if own == len(loads) or (
                loads[own].size == self._max_batch
                or loads[own].weight + entry.cost > self._max_cost
                or not self._pays(entry.cost)
            ):
                own = newest[entry.group] = len(loads)
                loads.append(_Load(0, 0.0))
            loads[own].size += 1
            loads[own].weight += entry.cost
        return loads, own


def _place(entry: _Entry[T, R]) -> tuple[float, int]:
    return entry.place


def _too_late(remaining_s: float, needed_s: float) -> DeadlineUnreachableError:
    remaining, needed = f"{remaining_s * 1e3:.0f}", f"{needed_s * 1e3:.0f}"
    return DeadlineUnreachableError(
        f"{remaining} ms are left, about {needed} ms are needed",
        metadata={"remaining_ms": remaining, "needed_ms": needed},
    )


def _outcome(work: Callable[[], V]) -> V | Exception:
    """What `work` returns or raises, in a form that a future takes."""
    try:
        return work()
    except (StopIteration, asyncio.CancelledError) as error:
        return _carried(error)  # these two have a meaning of their own inside a future
    except Exception as error:
        return error
    except BaseException as error:
        return _carried(error)


def _carried(error: BaseException) -> RuntimeError:
    carrier = RuntimeError(f"the batch ended with {type(error).__name__}")
    carrier.__cause__ = error
    return carrier
