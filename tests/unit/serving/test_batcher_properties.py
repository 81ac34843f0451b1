"""Random crowds: nothing is lost, nothing mixed up, no batch beyond its limits."""

from __future__ import annotations

import asyncio
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
