"""Visits: an idle device is used on its own thread; whoever comes meanwhile waits, and loses nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from serving.batcher import Batcher
from serving.errors import DeadlineUnreachableError, ShuttingDownError
from serving.latency import LatencyEstimate

Run = Callable[[Sequence[int], float | None], Sequence[int]]


class Device:
    """Doubles numbers; remembers its batches and threads."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()

    def run(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        self.threads.add(threading.get_ident())
        return [2 * item for item in items]


class Guest:
    """Stays until told to leave, then runs one item."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()

    def work(self, run: Run) -> Sequence[int]:
        self.entered.set()
        assert self.leave.wait(10)
        return run([7], None)


async def staying(batcher: Batcher[int, int]) -> tuple[Guest, asyncio.Task[Sequence[int]]]:
    guest = Guest()
    task = asyncio.create_task(batcher.visit(guest.work))
    assert await asyncio.to_thread(guest.entered.wait, 5)
    return guest, task


async def test_a_visit_runs_on_the_device_thread_and_teaches_the_estimate() -> None:
    device, estimate = Device(), LatencyEstimate()
    batcher = Batcher(device.run, max_batch=4, max_queue=4, estimate=estimate)
    threads: list[int] = []

    def work(run: Run) -> list[int]:
        threads.append(threading.get_ident())
        return [*run([1, 2], None), *run([3], 5.0)]

    assert batcher.idle
    assert await batcher.visit(work) == [2, 4, 6]
    assert batcher.idle
    assert estimate.known
    assert (await batcher.submit(4)).result == 8
    assert device.batches == [[1, 2], [3], [4]]
    assert set(threads) == device.threads
    await batcher.close()
    assert not batcher.idle


async def test_who_comes_during_a_visit_is_batched_after_it_by_deadline() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=1, max_queue=8)
    guest, visit = await staying(batcher)
    assert not batcher.idle
    patient = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0.01)
    urgent = asyncio.create_task(batcher.submit(2, timeout_s=1.9))
    await asyncio.sleep(0.05)
    assert (batcher.queued, device.batches) == (2, [])
    with pytest.raises(RuntimeError, match="idle"):
        await batcher.visit(guest.work)
    guest.leave.set()
    assert await visit == [14]
    assert [(await waiting).result for waiting in (patient, urgent)] == [2, 4]
    assert device.batches == [[7], [2], [1]]
    await batcher.close()


async def test_who_leaves_during_a_visit_leaves_the_device_to_the_next_when_it_ends() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=1, max_queue=8)
    guest, visit = await staying(batcher)
    visit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visit
    assert not batcher.idle
    waiting = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    guest.leave.set()
    assert (await waiting).result == 2
    assert device.batches == [[7], [1]]
    await batcher.close()


async def test_what_cannot_be_in_time_is_not_run_and_the_estimate_gives_way() -> None:
    device, estimate = Device(), LatencyEstimate()
    estimate.observe(1, 10.0)
    batcher = Batcher(device.run, max_batch=1, max_queue=8, estimate=estimate)
    with pytest.raises(DeadlineUnreachableError):
        await batcher.visit(lambda run: run([1], 9.9))
    assert device.batches == []
    assert estimate.seconds(1) < 10
    assert await batcher.visit(lambda run: run([1], 9.9)) == [2]
    await batcher.close()


@pytest.mark.parametrize(
    "error", [ValueError("mine"), StopIteration(), asyncio.CancelledError(), SystemExit(3)]
)
async def test_what_a_visit_raises_reaches_its_caller_alone(error: BaseException) -> None:
    batcher = Batcher(Device().run, max_batch=1, max_queue=8)

    def work(_: Run) -> int:
        raise error

    with pytest.raises(ValueError if isinstance(error, ValueError) else RuntimeError):
        await batcher.visit(work)
    assert batcher.idle
    assert (await batcher.submit(1)).result == 2
    await batcher.close()


async def test_closing_waits_for_the_visit_and_for_who_waits_behind_it() -> None:
    device = Device()
    batcher = Batcher(device.run, max_batch=1, max_queue=8)
    guest, visit = await staying(batcher)
    waiting = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0.02)
    assert not closing.done()
    with pytest.raises(ShuttingDownError):
        await batcher.visit(guest.work)
    guest.leave.set()
    await closing
    assert (await visit, (await waiting).result) == ([14], 2)
