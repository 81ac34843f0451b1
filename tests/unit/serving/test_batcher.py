"""The batcher's promises: own result or typed error, bounded, early refusal, nobody harmed by others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from serving.batcher import Batched, Batcher
from serving.errors import DeadlineUnreachableError, QueueFullError, ShuttingDownError
from serving.latency import LatencyEstimate


class Device:
    """Doubles numbers. Remembers its batches, and waits at a gate while that is shut."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()

    def run(self, items: Sequence[int]) -> Sequence[int]:
        self.threads.add(threading.get_ident())
        self.batches.append(list(items))
        assert self.gate.wait(10)
        time.sleep(self.seconds)
        return [2 * item for item in items]


def known(fixed: float, per_item: float = 0.0) -> LatencyEstimate:
    """An estimate that has seen batches take `fixed` + `per_item` x items seconds, whatever the clock says."""
    estimate = LatencyEstimate()
    for items in (1, 4, 2):
        estimate.observe(items, fixed + per_item * items)
    return estimate


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition is set by the device thread
            await asyncio.sleep(0.001)


async def occupied(batcher: Batcher[int, int], device: Device) -> asyncio.Task[Batched[int]]:
    """The device holds item 0 at the shut gate; what is submitted next has to wait."""
    device.gate.clear()
    seen = len(device.batches)
    task = asyncio.create_task(batcher.submit(0))
    await until(lambda: len(device.batches) > seen)
    return task


def submitted(batcher: Batcher[int, int], items: Sequence[int]) -> list[asyncio.Task[Batched[int]]]:
    return [asyncio.create_task(batcher.submit(item)) for item in items]


async def test_everyone_gets_their_own_result_and_its_timings() -> None:
    device = Device(seconds=0.002)
    batcher = Batcher(device.run, max_batch=4, max_queue=64)
    results = await asyncio.gather(*(batcher.submit(item) for item in range(50)))
    assert [r.result for r in results] == [2 * item for item in range(50)]
    assert all(r.run_s >= 0.002 and r.queue_s >= 0 and 1 <= r.batch_size <= 4 for r in results)
    assert results[49].queue_s > results[0].queue_s
    assert len(device.threads) == 1
    assert threading.get_ident() not in device.threads
    await batcher.close()


async def test_a_batch_is_what_waits_when_the_device_frees() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=4, max_queue=64)
    first = await occupied(batcher, device)
    rest = submitted(batcher, range(1, 7))
    await until(lambda: batcher.queued == 6)
    device.gate.set()
    await asyncio.gather(first, *rest)
    assert device.batches == [[0], [1, 2, 3, 4], [5, 6]]
    await batcher.close()


async def test_a_lonely_item_does_not_wait_for_company() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=64, max_queue=64)
    assert (await batcher.submit(3)).queue_s < 0.5
    assert device.batches == [[3]]
    await batcher.close()


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=2, max_queue=4, estimate=known(100.0))
    first = await occupied(batcher, device)
    rest = submitted(batcher, range(1, 5))
    await until(lambda: batcher.queued == 4)
    started = time.perf_counter()
    with pytest.raises(QueueFullError) as caught:
        await batcher.submit(5)
    assert time.perf_counter() - started < 1
    assert caught.value.retry_after_s is not None
    assert 270 < caught.value.retry_after_s <= 300  # two batches, and what is left of the one that runs
    assert caught.value.metadata == {"queued": "4"}
    device.gate.set()
    assert [r.result for r in await asyncio.gather(first, *rest)] == [0, 2, 4, 6, 8]
    assert all(5 not in batch for batch in device.batches)
    await batcher.close()


async def test_a_retry_hint_is_positive_before_anything_was_measured() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=1, max_queue=1)
    tasks = [await occupied(batcher, device), *submitted(batcher, [1])]
    await until(lambda: batcher.queued == 1)
    with pytest.raises(QueueFullError) as caught:
        await batcher.submit(2)
    assert (caught.value.retry_after_s or 0) > 0
    device.gate.set()
    await asyncio.gather(*tasks)
    await batcher.close()


async def test_who_left_never_reaches_the_device_and_frees_the_place() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=4, max_queue=3)
    first = await occupied(batcher, device)
    one, two, three = submitted(batcher, [1, 2, 3])
    await until(lambda: batcher.queued == 3)
    two.cancel()
    await until(lambda: batcher.queued == 2)
    four = submitted(batcher, [4])[0]
    await until(lambda: batcher.queued == 3)
    device.gate.set()
    assert [r.result for r in await asyncio.gather(first, one, three, four)] == [0, 2, 6, 8]
    assert two.cancelled()
    assert device.batches == [[0], [1, 3, 4]]
    await batcher.close()


async def test_leaving_while_on_the_device_harms_nobody() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=4, max_queue=8)
    first = await occupied(batcher, device)
    rest = submitted(batcher, [1, 2])
    await until(lambda: batcher.queued == 2)
    first.cancel()
    device.gate.set()
    assert [r.result for r in await asyncio.gather(*rest)] == [2, 4]
    assert (await batcher.submit(5)).result == 10
    await batcher.close()


async def test_a_deadline_below_the_measured_time_is_refused_without_the_device() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=4, max_queue=8, estimate=known(20.0))
    started = time.perf_counter()
    with pytest.raises(DeadlineUnreachableError) as caught:
        await batcher.submit(2, timeout_s=10)
    assert time.perf_counter() - started < 1
    assert caught.value.metadata == {"remaining_ms": "10000", "needed_ms": "20000"}
    assert device.batches == []
    assert (await batcher.submit(3, timeout_s=30)).result == 6
    await batcher.close()


async def test_who_would_wait_too_long_behind_others_is_refused_at_once() -> None:
    """20 s are enough for one's own batch, but not behind the running one and a whole batch that waits."""
    device = Device()
    batcher = Batcher(device.run, max_batch=2, max_queue=8, estimate=known(10.0))
    tasks = [await occupied(batcher, device), *submitted(batcher, [1, 2])]
    await until(lambda: batcher.queued == 2)
    with pytest.raises(DeadlineUnreachableError):
        await batcher.submit(3, timeout_s=20)
    device.gate.set()
    await asyncio.gather(*tasks)
    await batcher.close()


async def test_a_deadline_that_passes_in_the_queue_is_told_when_it_passes() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=4, max_queue=8)
    first = await occupied(batcher, device)
    with pytest.raises(DeadlineUnreachableError):
        await asyncio.wait_for(batcher.submit(1, timeout_s=0.03), 2)
    assert batcher.queued == 0
    device.gate.set()
    await first
    await batcher.submit(2)
    assert device.batches == [[0], [2]]
    await batcher.close()


async def test_no_time_left_is_refused_even_before_anything_was_measured() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=4, max_queue=8)
    for timeout_s in (0.0, -1.0):
        with pytest.raises(DeadlineUnreachableError):
            await batcher.submit(1, timeout_s=timeout_s)
    assert device.batches == []
    await batcher.close()


async def test_one_slow_batch_does_not_shut_the_door_for_ever() -> None:
    batcher = Batcher(Device().run, max_batch=1, max_queue=8, estimate=known(100.0))
    for _ in range(200):
        try:
            assert (await batcher.submit(2, timeout_s=5)).result == 4
            break
        except DeadlineUnreachableError:
            continue
    else:
        pytest.fail("still refused on the strength of what was slow once")
    await batcher.close()


async def test_company_is_not_taken_aboard_where_it_would_make_a_batch_late() -> None:
    """5 s a batch and 10 s an item: three fit into 36 s, eight do not."""
    device = Device()
    batcher = Batcher(device.run, max_batch=8, max_queue=32, estimate=known(5.0, 10.0))
    tight = asyncio.create_task(batcher.submit(100, timeout_s=36))
    rest = submitted(batcher, range(7))
    await asyncio.gather(tight, *rest)
    assert device.batches[0] == [100, 0, 1]
    assert sum(len(batch) for batch in device.batches) == 8
    await batcher.close()


async def test_an_exception_reaches_each_waiter_of_its_batch_and_no_other() -> None:
    class Boom(Exception):
        pass

    def run(items: Sequence[int]) -> Sequence[int]:
        if 13 in items:
            raise Boom("thirteen")
        return items

    batcher = Batcher(run, max_batch=2, max_queue=64)
    results = await asyncio.gather(*(batcher.submit(n) for n in (12, 13, 14, 15)), return_exceptions=True)
    assert [type(r) for r in results] == [Boom, Boom, Batched, Batched]
    assert (await batcher.submit(16)).result == 16
    await batcher.close()


@pytest.mark.parametrize(
    "error", [StopIteration(), asyncio.CancelledError(), SystemExit(3), KeyboardInterrupt()]
)
async def test_exceptions_with_a_meaning_for_futures_are_carried(error: BaseException) -> None:
    def run(items: Sequence[int]) -> Sequence[int]:
        raise error

    batcher = Batcher(run, max_batch=2, max_queue=8)
    with pytest.raises(RuntimeError) as caught:
        await batcher.submit(1)
    assert caught.value.__cause__ is error
    await batcher.close()


async def test_a_wrong_number_of_results_is_an_error_not_a_mix_up() -> None:
    batcher: Batcher[int, int] = Batcher(lambda items: items[1:], max_batch=2, max_queue=8)
    results = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
    assert all(isinstance(r, RuntimeError) for r in results)
    await batcher.close()


async def test_cost_bounds_a_batch_and_a_single_item_above_it_runs_alone() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=8, max_queue=64, cost=float, max_cost=10)
    first = await occupied(batcher, device)
    rest = submitted(batcher, [4, 4, 4, 50, 1, 9, 1])
    await until(lambda: batcher.queued == 7)
    device.gate.set()
    await asyncio.gather(first, *rest)
    assert device.batches == [[0], [4, 4], [4], [50], [1, 9], [1]]
    await batcher.close()


async def test_the_earliest_deadline_goes_first_and_equals_in_order_of_arrival() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=1, max_queue=8, patience_s=30)
    first = await occupied(batcher, device)
    rest = [
        asyncio.create_task(batcher.submit(item, timeout_s=timeout_s))
        for item, timeout_s in ((1, None), (2, 20), (3, None), (4, 10), (5, 1000))
    ]
    await until(lambda: batcher.queued == 5)
    device.gate.set()
    await asyncio.gather(first, *rest)
    assert device.batches == [[0], [4], [2], [1], [3], [5]]
    await batcher.close()


async def test_who_has_waited_for_longer_than_patience_is_overtaken_by_nobody() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=1, max_queue=8, patience_s=0.02)
    first = await occupied(batcher, device)
    patient = submitted(batcher, [1])[0]
    await asyncio.sleep(0.03)
    hasty = asyncio.create_task(batcher.submit(2, timeout_s=5))
    await until(lambda: batcher.queued == 2)
    device.gate.set()
    await asyncio.gather(first, patient, hasty)
    assert device.batches == [[0], [1], [2]]
    await batcher.close()


async def test_only_items_of_one_group_share_a_batch() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=3, max_queue=16, group=lambda item: item % 2)
    first = await occupied(batcher, device)
    rest = submitted(batcher, [1, 2, 3, 4, 5, 7, 6])
    await until(lambda: batcher.queued == 7)
    device.gate.set()
    await asyncio.gather(first, *rest)
    assert device.batches == [[0], [1, 3, 5], [2, 4, 6], [7]]
    await batcher.close()


async def test_where_sharing_saves_nothing_everyone_runs_alone() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=8, max_queue=16, estimate=known(0.0, 10.0))
    first = await occupied(batcher, device)
    rest = submitted(batcher, [1, 2, 3])
    await until(lambda: batcher.queued == 3)
    device.gate.set()
    await asyncio.gather(first, *rest)
    assert device.batches == [[0], [1], [2], [3]]
    await batcher.close()


async def test_a_forecast_counts_the_batches_ahead_of_ones_own() -> None:
    """One batch of 10 s runs and one waits; a third group would wait for both, company for the first alone."""
    device = Device()
    batcher = Batcher(device.run, max_batch=2, max_queue=8, group=lambda item: item % 3, estimate=known(10.0))
    tasks = [await occupied(batcher, device), *submitted(batcher, [1, 2])]
    await until(lambda: batcher.queued == 2)
    with pytest.raises(DeadlineUnreachableError) as caught:
        await batcher.submit(3, timeout_s=35)
    assert 39_000 <= int(caught.value.metadata["needed_ms"]) <= 40_000
    tasks.append(asyncio.create_task(batcher.submit(4, timeout_s=35)))
    await until(lambda: batcher.queued == 3)
    device.gate.set()
    await asyncio.gather(*tasks)
    assert device.batches == [[0], [1, 4], [2]]
    await batcher.close()


async def test_close_drains_what_was_accepted_and_refuses_the_rest() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=2, max_queue=8)
    first = await occupied(batcher, device)
    rest = submitted(batcher, [1, 2, 3])
    await until(lambda: batcher.queued == 3)
    closing = [asyncio.create_task(batcher.close()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDownError):
        await batcher.submit(4)
    impatient = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    impatient.cancel()
    device.gate.set()
    assert [r.result for r in await asyncio.gather(first, *rest)] == [0, 2, 4, 6]
    await asyncio.gather(*closing)


async def test_close_without_work() -> None:
    batcher = Batcher(Device().run, max_batch=1, max_queue=1)
    await batcher.close()
    await batcher.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch": 0, "max_queue": 1},
        {"max_batch": 1, "max_queue": 0},
        {"max_batch": 1, "max_queue": 1, "patience_s": -1.0},
        {"max_batch": 1, "max_queue": 1, "max_cost": 3.0},
        {"max_batch": 1, "max_queue": 1, "cost": float, "max_cost": 0.0},
    ],
)
def test_senseless_limits_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Batcher(Device().run, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -1.0])
async def test_senseless_costs_are_refused(cost: float) -> None:
    batcher = Batcher(Device().run, max_batch=1, max_queue=1, cost=lambda _: cost, max_cost=1)
    with pytest.raises(ValueError):
        await batcher.submit(1)
    await batcher.close()
