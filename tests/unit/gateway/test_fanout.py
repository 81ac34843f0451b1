"""Fan-out: all start at once, all end within their budget, and nothing one call does hurts another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fanout import Call, Ended, Ending, fan_out


class Source:
    """A source that takes `seconds`, then answers with its name or raises; it notes what was done to it."""

    def __init__(self, name: str, seconds: float, error: BaseException | None = None) -> None:
        self.name, self.seconds, self.error = name, seconds, error
        self.started_at = self.ended_at = 0.0
        self.budget: float | None = None
        self.cancelled = False

    async def __call__(self, budget_s: float) -> str:
        self.started_at, self.budget = time.perf_counter(), budget_s
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.ended_at = time.perf_counter()
        if self.error is not None:
            raise self.error
        return self.name


async def collect(calls: dict[str, Call[str]]) -> list[Ended[str, str]]:
    async with aclosing(fan_out(calls)) as ended:
        return [end async for end in ended]


async def test_ends_come_in_the_order_in_which_they_happen() -> None:
    sources = [Source("slow", 0.06), Source("quick", 0.0), Source("middling", 0.03)]
    ends = await collect({source.name: Call(source, 1.0) for source in sources})
    assert [(end.key, end.ending, end.result) for end in ends] == [
        ("quick", Ending.OK, "quick"),
        ("middling", Ending.OK, "middling"),
        ("slow", Ending.OK, "slow"),
    ]
    assert ends[2].elapsed_s >= 0.06


async def test_all_start_before_any_is_waited_for_and_are_told_their_budget() -> None:
    sources = [Source(str(i), 0.05) for i in range(8)]
    await collect({source.name: Call(source, 1.0 + i) for i, source in enumerate(sources)})
    assert [source.budget for source in sources] == [1.0 + i for i in range(8)]
    assert max(source.started_at for source in sources) < min(source.ended_at for source in sources)


async def test_late_call_is_cancelled_and_reported_at_its_own_budget() -> None:
    late, fine = Source("late", 5.0), Source("fine", 0.3)
    begun = time.perf_counter()
    ends = await collect({"late": Call(late, 0.03), "fine": Call(fine, 1.0)})
    assert time.perf_counter() - begun < 3.0
    assert [(end.key, end.ending) for end in ends] == [("late", Ending.TIMED_OUT), ("fine", Ending.OK)]
    assert ends[0].error is None
    assert 0.03 <= ends[0].elapsed_s < 0.3
    assert late.cancelled
    assert not fine.cancelled


@pytest.mark.parametrize("error", [ValueError("broken"), asyncio.CancelledError()])
async def test_a_call_that_raises_or_gives_itself_up_is_a_failure_of_its_own(error: BaseException) -> None:
    ends = await collect(
        {"bad": Call(Source("bad", 0.0, error), 1.0), "good": Call(Source("good", 0.02), 1.0)}
    )
    assert [(end.key, end.ending) for end in ends] == [("bad", Ending.FAILED), ("good", Ending.OK)]
    assert type(ends[0].error) is type(error)


async def test_a_timeout_raised_inside_the_call_counts_as_timed_out() -> None:
    (end,) = await collect({"bad": Call(Source("bad", 0.0, TimeoutError()), 1.0)})
    assert end.ending is Ending.TIMED_OUT


async def test_a_call_without_budget_is_never_begun() -> None:
    source = Source("x", 0.0)
    (end,) = await collect({"x": Call(source, 0.0)})
    assert end.ending is Ending.TIMED_OUT
    assert source.budget is None


async def test_nothing_to_call_ends_at_once() -> None:
    assert await collect({}) == []


async def test_a_call_that_ignores_cancellation_holds_nobody_up() -> None:
    released = asyncio.Event()

    async def stubborn(budget_s: float) -> str:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    begun = time.perf_counter()
    (end,) = await collect({"stubborn": Call(stubborn, 0.02)})
    assert end.ending is Ending.TIMED_OUT
    assert time.perf_counter() - begun < 1.0
    released.set()


async def test_cancelling_the_consumer_cancels_every_call() -> None:
    sources = [Source(str(i), 10.0) for i in range(4)]
    consumer = asyncio.create_task(collect({source.name: Call(source, 10.0) for source in sources}))
    await asyncio.sleep(0.02)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    await asyncio.sleep(0)
    assert all(source.cancelled for source in sources)


async def test_leaving_early_cancels_what_still_runs() -> None:
    quick, slow = Source("quick", 0.0), Source("slow", 10.0)
    async with aclosing(fan_out({"quick": Call(quick, 10.0), "slow": Call(slow, 10.0)})) as ended:
        async for end in ended:
            assert end.key == "quick"
            break
    await asyncio.sleep(0)
    assert slow.cancelled


async def test_a_slow_consumer_does_not_count_against_the_calls() -> None:
    ends = []
    calls: dict[str, Call[str]] = {"a": Call(Source("a", 0.0), 0.5), "b": Call(Source("b", 0.02), 0.5)}
    async with aclosing(fan_out(calls)) as ended:
        async for end in ended:
            ends.append(end)
            await asyncio.sleep(0.6)
    assert [(end.key, end.ending) for end in ends] == [("a", Ending.OK), ("b", Ending.OK)]
    assert ends[1].elapsed_s < 0.5


async def test_calls_that_end_in_the_same_turn_of_the_loop_all_count() -> None:
    gate = asyncio.Event()

    def after(steps: int) -> Callable[[float], Awaitable[str]]:
        async def wait(budget_s: float) -> str:
            await gate.wait()
            for _ in range(steps):
                await asyncio.sleep(0)
            return str(steps)

        return wait

    asyncio.get_running_loop().call_later(0.02, gate.set)
    ends = await collect({str(steps): Call(after(steps), 1.0) for steps in range(6)})
    assert [end.result for end in ends] == [str(steps) for steps in range(6)]


KINDS: dict[str, Callable[[str], Callable[[float], Awaitable[str]]]] = {
    "ok": lambda name: Source(name, 0.0),
    "fails": lambda name: Source(name, 0.0, RuntimeError(name)),
    "late": lambda name: Source(name, 5.0),
    "times out itself": lambda name: Source(name, 0.0, TimeoutError()),
}
EXPECTED = {
    "ok": Ending.OK,
    "fails": Ending.FAILED,
    "late": Ending.TIMED_OUT,
    "times out itself": Ending.TIMED_OUT,
}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=6))
def test_each_call_ends_exactly_once_and_as_it_deserves(kinds: list[str]) -> None:
    calls = {str(i): Call(KINDS[kind](str(i)), 0.02) for i, kind in enumerate(kinds)}
    ends = asyncio.run(collect(calls))
    assert {end.key: end.ending for end in ends} == {str(i): EXPECTED[kind] for i, kind in enumerate(kinds)}
    assert len(ends) == len(kinds)
