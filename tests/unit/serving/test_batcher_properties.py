"""Random crowds: nothing is lost, nothing mixed up, no batch beyond its limits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batcher import Batched, Batcher
from serving.errors import DeadlineUnreachableError, QueueFullError


class BrokenItem(Exception):
    """Raised by the device for a batch with a broken item in it."""


@dataclass(frozen=True)
class Caller:
    """What one caller does: waits, submits an item of some cost, perhaps in a hurry, perhaps leaving early."""

    number: int
    delay_ms: int
    cost: int
    broken: bool
    timeout_ms: int | None
    leaves_after_ms: int | None


CALLERS = st.lists(
    st.builds(
        Caller,
        number=st.just(0),
        delay_ms=st.integers(0, 4),
        cost=st.integers(0, 12),
        broken=st.integers(0, 9).map(lambda n: n == 0),
        timeout_ms=st.one_of(st.none(), st.integers(0, 10)),
        leaves_after_ms=st.one_of(st.none(), st.none(), st.integers(0, 4)),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(CALLERS, st.integers(1, 5), st.integers(1, 12), st.integers(1, 10), st.integers(0, 2))
def test_every_item_has_its_own_result_or_a_typed_error(
    callers: list[Caller], max_batch: int, max_queue: int, max_cost: int, run_ms: int
) -> None:
    batches: list[list[Caller]] = []

    def run(items: Sequence[Caller]) -> Sequence[int]:
        batches.append(list(items))
        time.sleep(run_ms / 1e3)
        if any(item.broken for item in items):
            raise BrokenItem
        return [item.number for item in items]

    crowd = [
        Caller(i, c.delay_ms, c.cost, c.broken, c.timeout_ms, c.leaves_after_ms)
        for i, c in enumerate(callers)
    ]

    async def one(batcher: Batcher[Caller, int], caller: Caller) -> Batched[int] | BaseException:
        await asyncio.sleep(caller.delay_ms / 1e3)
        timeout_s = None if caller.timeout_ms is None else caller.timeout_ms / 1e3
        task = asyncio.create_task(batcher.submit(caller, timeout_s=timeout_s))
        if caller.leaves_after_ms is not None:
            await asyncio.sleep(caller.leaves_after_ms / 1e3)
            task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    async def everyone() -> list[Batched[int] | BaseException]:
        batcher = Batcher(
            run, max_batch=max_batch, max_queue=max_queue, cost=lambda c: float(c.cost), max_cost=max_cost
        )
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*(one(batcher, caller) for caller in crowd))
            await batcher.close()
        assert batcher.queued == 0
        return outcomes

    outcomes = asyncio.run(everyone())

    ran = {caller.number: batch for batch in batches for caller in batch}
    assert len(ran) == sum(len(batch) for batch in batches), "an item ran twice"
    for batch in batches:
        assert len(batch) <= max_batch
        assert len(batch) == 1 or sum(caller.cost for caller in batch) <= max_cost
    for caller, outcome in zip(crowd, outcomes, strict=True):
        match outcome:
            case Batched():
                assert outcome.result == caller.number
                assert outcome.batch_size == len(ran[caller.number])
            case BrokenItem():
                assert any(mate.broken for mate in ran[caller.number])
            case QueueFullError():
                assert caller.number not in ran
                assert (outcome.retry_after_s or 0) > 0
            case DeadlineUnreachableError():
                assert caller.timeout_ms is not None
                assert caller.number not in ran
            case asyncio.CancelledError():
                assert caller.leaves_after_ms is not None
            case _:
                raise AssertionError(f"an untyped outcome: {outcome!r}")


WAITING = st.lists(
    # group, cost, seconds until the deadline (far enough that nobody is late)
    st.tuples(st.integers(0, 2), st.integers(0, 6), st.none() | st.integers(100, 200)),
    min_size=1,
    max_size=24,
)


@settings(max_examples=60, deadline=None)
@given(WAITING, st.integers(1, 4), st.integers(1, 12), st.sampled_from([0.0, 150.0, 1000.0]))
def test_batches_are_led_by_the_most_urgent_and_hold_one_group_in_its_order(
    waiting: list[tuple[int, int, int | None]], max_batch: int, max_cost: int, patience_s: float
) -> None:
    """Everything is there before the device is free: then the order of batches follows from the deadlines alone."""
    batches: list[list[int]] = []
    gate = threading.Event()

    def run(numbers: Sequence[int]) -> Sequence[int]:
        batches.append(list(numbers))
        assert gate.wait(10)
        return numbers

    async def everyone() -> None:
        batcher = Batcher(
            run,
            max_batch=max_batch,
            max_queue=64,
            cost=lambda number: float(waiting[number][1]) if number >= 0 else 0.0,
            max_cost=max_cost,
            group=lambda number: waiting[number][0] if number >= 0 else None,
            patience_s=patience_s,
        )
        first = asyncio.create_task(batcher.submit(-1))
        async with asyncio.timeout(20):
            while not batches:  # noqa: ASYNC110 - set by the device thread
                await asyncio.sleep(0.001)
            tasks = [
                asyncio.create_task(batcher.submit(number, timeout_s=timeout))
                for number, (_, _, timeout) in enumerate(waiting)
            ]
            while batcher.queued < len(waiting):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            gate.set()
            await asyncio.gather(first, *tasks)
            await batcher.close()

    asyncio.run(everyone())

    def due(number: int) -> tuple[float, int]:
        timeout = waiting[number][2]
        return min(patience_s, patience_s if timeout is None else timeout), number

    left = sorted(range(len(waiting)), key=due)
    for batch in batches[1:]:
        assert batch[0] == left[0]
        mates = [number for number in left if waiting[number][0] == waiting[batch[0]][0]]
        assert batch == mates[: len(batch)]
        cost = sum(waiting[number][1] for number in batch)
        assert len(batch) == 1 or (cost <= max_cost and len(batch) <= max_batch)
        left = [number for number in left if number not in batch]
    assert not left
