"""The engine with a runner that counts instead of thinking: the next token is the last one plus one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llm_server.adapter_registry import AdapterRegistry
from llm_server.conditioning import Conditioning
from llm_server.engine import Engine
from llm_server.faults import DeadlineFault, EngineClosedFault, GenerationFault, QueueFullFault
from llm_server.kv_cache import BlockPool, BlockTable
from llm_server.runner import DecodeRow
from llm_server.sampling import SamplingParams
from llm_server.scheduler import Scheduler
from llm_server.sequence import (
    AdapterScales,
    Event,
    FailedEvent,
    FinishedEvent,
    FinishReason,
    GenerationRequest,
    TokenEvent,
)

VOCABULARY = 128  # ASCII: token n is character n
END = 3
BYTES = tuple(bytes([number]) if number > 3 else b"" for number in range(VOCABULARY))


class CountingRunner:
    """Wants the token after the last one. ``calls`` is what was asked of it; what is read is kept per position of a
    block, so that a wrong block or a wrong position gives a wrong answer."""

    def __init__(self, context_length: int = 64, block_size: int = 4) -> None:
        self.vocabulary_size = VOCABULARY
        self.context_length = context_length
        self.block_size = block_size
        self.memory: dict[tuple[int, int], int] = {}
        self.calls: list[tuple[str, list[int], int]] = []
        self.failing: set[int] = set()
        self.not_a_number: set[int] = set()
        self.dropped: list[str] = []
        self.before_step: Callable[[], None] = lambda: None

    def _write(self, blocks: SequenceOf[int], position: int, token: int) -> None:
        self.memory[blocks[position // self.block_size], position % self.block_size] = token

    def read(self, blocks: SequenceOf[int], length: int) -> list[int]:
        size = self.block_size
        return [self.memory[blocks[position // size], position % size] for position in range(length)]

    def _logits(self, tokens: list[int]) -> NDArray[np.float32]:
        if tokens[0] in self.failing:
            raise RuntimeError("the device is on fire")
        logits = np.zeros(VOCABULARY, np.float32)
        logits[(tokens[-1] + 1) % VOCABULARY] = np.nan if tokens[0] in self.not_a_number else 10.0
        return logits

    def prefill(
        self,
        tokens: SequenceOf[int],
        *,
        start: int,
        blocks: SequenceOf[int],
        adapters: AdapterScales,
        last: bool,
        conditioning: Conditioning | None = None,
    ) -> NDArray[np.float32] | None:
        self.before_step()
        for offset, token in enumerate(tokens):
            self._write(blocks, start + offset, token)
        whole = self.read(blocks, start + len(tokens))
        self.calls.append(("prefill", [whole[0]], len(tokens)))
        return self._logits(whole) if last else None

    def decode(self, rows: SequenceOf[DecodeRow]) -> NDArray[np.float32]:
        self.before_step()
        for row in rows:
            self._write(row.blocks, row.position, row.token)
        texts = [self.read(row.blocks, row.position + 1) for row in rows]
        self.calls.append(("decode", [text[0] for text in texts], 1))
        return np.stack([self._logits(text) for text in texts])

    def copy_blocks(self, pairs: SequenceOf[tuple[int, int]]) -> None:
        for source, target in pairs:
            for place in range(self.block_size):
                if (source, place) in self.memory:
                    self.memory[target, place] = self.memory[source, place]

    def drop_adapter(self, key: str) -> None:
        self.dropped.append(key)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def request(text: str = "a", most: int = 5, **changes: object) -> GenerationRequest:
    fields: dict[str, object] = {
        "prompt": tuple(text.encode()),
        "sampling": SamplingParams(max_new_tokens=most),
        "seed": 0,
        "end_tokens": frozenset({END}),
        **changes,
    }
    return GenerationRequest(**fields)  # type: ignore[arg-type]


class Rig:
    """An engine stepped by hand."""

    def __init__(
        self,
        *,
        running: int = 4,
        waiting: int = 4,
        chunk: int = 8,
        context: int = 64,
        blocks: int | None = None,
        reuse: bool = False,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self.runner, self.clock, self.registry = CountingRunner(context), Clock(), AdapterRegistry()
        enough = min(running * (-(-context // 4) + 1), 10_000)
        self.pool = BlockPool(blocks or enough, 4, reuse=reuse)
        self.scheduler = Scheduler(
            max_running=running, max_waiting=waiting, prefill_chunk=chunk, pool=self.pool
        )
        self.engine = Engine(
            self.runner,
            BYTES,
            self.scheduler,
            registry=self.registry,
            clock=self.clock,
            on_failure=on_failure,
        )

    def run(self, *requests: GenerationRequest) -> list[list[Event]]:
        events: list[list[Event]] = [[] for _ in requests]
        for one, sink in zip(requests, events, strict=True):
            self.engine.submit(one, sink.append)
        self.drain()
        return events

    def drain(self) -> None:
        for _ in range(10_000):
            if not self.engine.step():
                return
        pytest.fail("the engine does not come to rest")


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TokenEvent))


def finish(events: list[Event]) -> FinishedEvent:
    last = events[-1]
    assert isinstance(last, FinishedEvent)
    return last


def fault(events: list[Event]) -> Exception:
    (last,) = [event for event in events if isinstance(event, FailedEvent)]
    assert events[-1] is last
    return last.error


def test_tokens_stream_and_the_end_says_why() -> None:
    (events,) = Rig().run(request("a", most=3))
    assert [event.text for event in events[:-1] if isinstance(event, TokenEvent)] == ["b", "c", "d"]
    end = finish(events)
    assert (end.reason, end.text, end.prompt_tokens, end.generated_tokens) == (
        FinishReason.LENGTH,
        "bcd",
        1,
        3,
    )


def test_the_models_own_end_is_counted_but_not_shown() -> None:
    (events,) = Rig().run(request("\x01"))
    assert [event.token for event in events if isinstance(event, TokenEvent)] == [2]
    assert (finish(events).reason, finish(events).generated_tokens) == (FinishReason.END_OF_TURN, 2)


def test_a_stop_string_ends_within_its_step_and_is_not_shown() -> None:
    rig = Rig()
    (events,) = rig.run(request("a", most=20, stop=("ef",)))
    assert text_of(events) == finish(events).text == "bcd"
    assert (finish(events).reason, finish(events).generated_tokens) == (FinishReason.STOP_STRING, 5)
    assert len(rig.runner.calls) == 5


def test_text_held_back_for_a_stop_comes_with_the_end() -> None:
    (events,) = Rig().run(request("a", most=3, stop=("dx",)))
    assert text_of(events) == finish(events).text == "bcd"


def test_the_end_of_the_context_ends_the_answer() -> None:
    (events,) = Rig(context=6).run(request("abc", most=50))
    assert (finish(events).reason, finish(events).generated_tokens) == (FinishReason.LENGTH, 3)


@pytest.mark.parametrize("text", ["", "a" * 64])
def test_a_prompt_without_room_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="1 to 63"):
        Rig(context=64).engine.submit(request(text), print)


def test_a_long_prompt_is_read_in_chunks_while_others_stream() -> None:
    rig = Rig(chunk=4)
    short, long = rig.run(request("a", most=8), request("y" * 18, most=2))
    kinds = [(kind, numbers) for kind, numbers, _ in rig.runner.calls]
    short_one, long_one = [ord("a")], [ord("y")]
    assert kinds[:7] == [
        ("prefill", short_one),
        ("decode", short_one),
        ("prefill", long_one),
        ("decode", short_one),
        ("prefill", long_one),
        ("decode", short_one),
        ("prefill", long_one),
    ]
    assert [size for kind, first, size in rig.runner.calls if kind == "prefill" and first == long_one] == [
        4,
        4,
        4,
        4,
        2,
    ]
    assert (text_of(short), text_of(long)) == ("bcdefghi", "z{")


def test_all_that_write_share_a_step() -> None:
    rig = Rig()
    rig.run(*(request(text, most=10) for text in "abcd"))
    assert ("decode", [*b"abcd"], 1) in rig.runner.calls


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    rig = Rig(running=2, waiting=1)
    for _ in range(3):
        rig.engine.submit(request(), lambda event: None)
    with pytest.raises(QueueFullFault) as refused:
        rig.engine.submit(request(), lambda event: None)
    assert refused.value.retry_after_s > 0
    rig.engine.step()
    assert rig.engine.load == (2, 1)
    with pytest.raises(QueueFullFault):
        rig.engine.submit(request(), lambda event: None)
    rig.drain()
    rig.engine.submit(request(), lambda event: None)


def test_cancelling_frees_the_slot_before_the_next_step_and_is_silent() -> None:
    rig = Rig(running=1)
    first: list[Event] = []
    second: list[Event] = []
    ticket = rig.engine.submit(request("a", most=50), first.append)
    rig.engine.submit(request("k", most=1), second.append)
    rig.engine.step()
    rig.engine.step()
    rig.engine.cancel(ticket)
    rig.engine.step()
    assert rig.runner.calls[-1] == ("prefill", [ord("k")], 1)
    assert text_of(second) == "l"
    assert len(first) == 2
    assert rig.pool.in_use == 0


def test_cancelling_in_the_queue_makes_room_at_once() -> None:
    rig = Rig(running=1, waiting=0)
    ticket = rig.engine.submit(request(), lambda event: None)
    rig.engine.cancel(ticket)
    rig.engine.cancel(ticket)
    rig.engine.submit(request("k"), lambda event: None)
    rig.drain()
    assert {first for _, texts, _ in rig.runner.calls for first in texts} == {ord("k")}


def test_cancelling_during_a_step_sends_nothing_more() -> None:
    rig, events = Rig(), list[Event]()
    ticket = rig.engine.submit(request("a", most=50), events.append)
    rig.engine.step()
    rig.runner.before_step = lambda: rig.engine.cancel(ticket)
    rig.drain()
    assert len(events) == 1
    assert rig.engine.load == (0, 0)


def test_a_deadline_that_passed_in_the_queue_costs_no_step() -> None:
    rig = Rig(running=1)
    late: list[Event] = []
    rig.engine.submit(request("a", most=3), lambda event: None)
    rig.engine.submit(request("k", deadline=100.5), late.append)
    rig.engine.step()
    rig.clock.now = 101.0
    rig.drain()
    assert isinstance(fault(late), DeadlineFault)
    assert not any(ord("k") in texts for _, texts, _ in rig.runner.calls)


def test_a_deadline_that_passes_while_writing_ends_the_answer() -> None:
    rig, events = Rig(), list[Event]()
    rig.engine.submit(request("a", most=50, deadline=100.5), events.append)
    rig.engine.step()
    rig.clock.now = 100.5
    rig.drain()
    assert isinstance(fault(events), DeadlineFault)
    assert rig.pool.in_use == 0


@pytest.mark.parametrize("kind", ["failing", "not_a_number"])
def test_a_failure_in_a_prompt_hurts_nobody_else(kind: str) -> None:
    rig = Rig()
    getattr(rig.runner, kind).add(ord("q"))
    good, bad, other = rig.run(request("a"), request("q"), request("k"))
    assert isinstance(fault(bad), GenerationFault)
    assert (text_of(good), text_of(other)) == ("bcdef", "lmnop")
    assert rig.pool.in_use == 0


def test_a_step_that_fails_ends_its_sequences_and_the_engine_goes_on() -> None:
    rig, events = Rig(), list[Event]()
    rig.engine.submit(request("a", most=50), events.append)
    rig.engine.step()
    rig.runner.failing.add(ord("a"))
    rig.drain()
    assert isinstance(fault(events), GenerationFault)
    assert isinstance(fault(events).__cause__, RuntimeError)
    assert text_of(rig.run(request("k"))[0]) == "lmnop"


def test_a_prompt_that_fails_in_its_first_piece_is_not_read_on() -> None:
    rig, events = Rig(chunk=8), list[Event]()

    def fail() -> None:
        rig.runner.before_step = lambda: None
        raise RuntimeError("the device is on fire")

    rig.runner.before_step = fail
    # Two pieces in one step: what it shares with others, and the rest.
    rig.engine.submit(request("abcdefg", shared=4), events.append)
    rig.drain()
    assert isinstance(fault(events), GenerationFault)
    assert rig.runner.calls == []
    assert rig.pool.in_use == 0
    assert text_of(rig.run(request("k"))[0]) == "lmnop"


def test_a_lost_device_closes_the_engine() -> None:
    broken: list[Exception] = []
    rig, first, second = Rig(running=1, on_failure=broken.append), queue.Queue[Event](), queue.Queue[Event]()

    def fall_off() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    rig.runner.before_step = fall_off
    rig.engine.submit(request("a"), first.put)
    rig.engine.submit(request("b"), second.put)
    with started(rig) as engine:
        for events in (first, second):
            assert isinstance(fault([events.get(timeout=5)]), GenerationFault)
        with pytest.raises(EngineClosedFault):
            engine.submit(request("a"), first.put)
    assert [str(error) for error in broken] == ["CUDA error: an illegal memory access was encountered"]


def test_times_add_up() -> None:
    rig, events = Rig(running=1), list[Event]()

    def tick() -> None:
        rig.clock.now += 1.0

    rig.runner.before_step = tick
    rig.engine.submit(request("a", most=2), lambda event: None)
    rig.engine.submit(request("a" * 10, most=3), events.append)
    rig.drain()
    end = finish(events)
    assert (end.queue_s, end.prefill_s, end.decode_s, end.first_token_s) == (2.0, 2.0, 2.0, 4.0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("abc", min_size=1, max_size=20), st.integers(1, 12), st.integers(0, 30)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 4),
    st.integers(1, 9),
)
def test_whatever_the_company_each_answer_is_its_own(
    plans: list[tuple[str, int, int]], running: int, chunk: int
) -> None:
    """Requests arrive between steps, some are cancelled: the rest get what they would get alone; nothing leaks."""
    rig = Rig(running=running, waiting=8, chunk=chunk)
    events: list[list[Event]] = [[] for _ in plans]
    cancelled = set()
    for index, (text, most, wait) in enumerate(plans):
        ticket = rig.engine.submit(request(text, most), events[index].append)
        for _ in range(wait % 4):
            rig.engine.step()
        if wait > 24:
            rig.engine.cancel(ticket)
            cancelled.add(index)
        assert rig.engine.load[0] <= running
    rig.drain()
    for index, (text, most, _) in enumerate(plans):
        alone = "".join(chr(ord(text[-1]) + 1 + step) for step in range(most))
        if index in cancelled:
            assert alone.startswith(text_of(events[index]))
        else:
            assert text_of(events[index]) == alone
            assert finish(events[index]).reason is FinishReason.LENGTH
    assert rig.engine.load == (0, 0)
    assert rig.pool.in_use == 0


@contextmanager
def started(rig: Rig) -> Iterator[Engine]:
    rig.engine.start()
    try:
        yield rig.engine
    finally:
        rig.engine.close()


def test_the_thread_serves_and_closes() -> None:
    rig, events = Rig(), queue.Queue[Event]()
    with started(rig) as engine:
        engine.submit(request("a", most=2), events.put)
        assert [events.get(timeout=5) for _ in range(3)][-1].text == "bc"  # type: ignore[union-attr]
    with pytest.raises(EngineClosedFault):
        rig.engine.submit(request(), events.put)
    rig.engine.close()


def test_closing_fails_what_is_left() -> None:
    rig, events, stepped = Rig(context=10**7), queue.Queue[Event](), threading.Event()
    rig.runner.before_step = stepped.set
    with started(rig) as engine:
        engine.submit(request("a", most=10**6, end_tokens=frozenset()), events.put)
        assert stepped.wait(5)
    assert isinstance(fault(list(events.queue)), EngineClosedFault)
    assert rig.engine.load == (0, 0)


def test_a_broken_loop_closes_the_engine_tells_all_and_says_so() -> None:
    broken: list[Exception] = []
    rig, first, second = Rig(running=1, on_failure=broken.append), queue.Queue[Event](), queue.Queue[Event]()

    def close(table: BlockTable, *, keep: bool = True) -> None:
        raise MemoryError("cannot even release")

    rig.pool.close = close  # type: ignore[method-assign]
    rig.engine.submit(request("a", most=1), first.put)
    rig.engine.submit(request("a", most=1), second.put)
    with started(rig) as engine:
        assert isinstance(first.get(timeout=5), TokenEvent)
        for events in (first, second):
            assert isinstance(fault([events.get(timeout=5)]), GenerationFault)
        with pytest.raises(EngineClosedFault):
            engine.submit(request("a"), first.put)
    assert [type(error) for error in broken] == [MemoryError]
