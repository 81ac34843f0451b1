"""Whatever arrives, leaves, runs out of time or is in the way: no block leaks, and everyone gets their own answer."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from llm_server.conditioning import Conditioning
from llm_server.engine import Engine
from llm_server.faults import DeadlineFault, QueueFullFault
from llm_server.kv_cache import BlockPool
from llm_server.runner import DecodeRow
from llm_server.sampling import SamplingParams
from llm_server.scheduler import Scheduler
from llm_server.sequence import (
    AdapterScales,
    Event,
    FailedEvent,
    FinishedEvent,
    GenerationRequest,
    Sequence,
    TokenEvent,
)

SIZE, VOCABULARY, CONTEXT = 4, 97, 64
BYTES = tuple(bytes([33 + number]) if number < 90 else b"" for number in range(VOCABULARY))


def following(tokens: list[int]) -> NDArray[np.float32]:
    """Logits that depend on all tokens, so that a wrong block anywhere shows."""
    weights = np.arange(1, len(tokens) + 1)
    state = int((np.array(tokens) * weights).sum()) % 10_007
    logits: NDArray[np.float32] = np.random.default_rng(state).normal(size=VOCABULARY).astype(np.float32)
    return logits


class RememberingRunner:
    """Keeps tokens where a real runner keeps keys and values, and reads all of them back at each step."""

    vocabulary_size, context_length = VOCABULARY, CONTEXT

    def __init__(self) -> None:
        self.memory: dict[tuple[int, int], int] = {}

    def _read(self, blocks: list[int], length: int) -> list[int]:
        return [self.memory[blocks[place // SIZE], place % SIZE] for place in range(length)]

    def prefill(
        self,
        tokens: tuple[int, ...],
        *,
        start: int,
        blocks: list[int],
        adapters: AdapterScales,
        last: bool,
        conditioning: Conditioning | None = None,
    ) -> NDArray[np.float32] | None:
        for place, token in enumerate(tokens, start):
            self.memory[blocks[place // SIZE], place % SIZE] = token
        whole = self._read(blocks, start + len(tokens))
        return following(whole) if last else None

    def decode(self, rows: list[DecodeRow]) -> NDArray[np.float32]:
        for row in rows:
            self.memory[row.blocks[row.position // SIZE], row.position % SIZE] = row.token
        return np.stack([following(self._read(list(row.blocks), row.position + 1)) for row in rows])

    def copy_blocks(self, pairs: tuple[tuple[int, int], ...]) -> None:
        for source, target in pairs:
            for place in range(SIZE):
                if (source, place) in self.memory:
                    self.memory[target, place] = self.memory[source, place]

    def drop_adapter(self, key: str) -> None:
        raise AssertionError("there are none")


def greedy(prompt: tuple[int, ...], most: int) -> list[int]:
    tokens = [*prompt]
    for _ in range(most):
        tokens.append(int(following(tokens).argmax()))
    return tokens[len(prompt) :]


@dataclass
class Client:
    request: GenerationRequest
    sequence: Sequence | None = None
    events: list[Event] = field(default_factory=list)
    left: bool = False


class EngineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.pool = BlockPool(20, SIZE)
        self.scheduler = Scheduler(max_running=6, max_waiting=4, prefill_chunk=8, pool=self.pool)
        self.engine = Engine(RememberingRunner(), BYTES, self.scheduler, clock=lambda: self.now)  # type: ignore[arg-type]
        self.clients: list[Client] = []

    @rule(
        head=st.integers(0, 3),
        shared=st.integers(0, 30),
        own=st.lists(st.integers(0, 90), min_size=1, max_size=12),
        most=st.integers(1, 20),
        priority=st.integers(-1, 1),
        patience=st.none() | st.integers(1, 20),
        beams=st.sampled_from([1, 1, 1, 3]),
    )
    def arrive(
        self,
        head: int,
        shared: int,
        own: list[int],
        most: int,
        priority: int,
        patience: int | None,
        beams: int,
    ) -> None:
        request = GenerationRequest(
            prompt=(*([head] * shared), *own),
            sampling=SamplingParams(max_new_tokens=min(most, 6) if beams > 1 else most, beams=beams),
            seed=0,
            end_tokens=frozenset(),
            priority=priority,
            deadline=None if patience is None else self.now + patience,
        )
        client = Client(request)
        try:
            client.sequence = self.engine.submit(request, client.events.append)
        except QueueFullFault:
            return
        self.clients.append(client)

    @rule(steps=st.integers(1, 6))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.now += 1
            self.engine.step()

    @precondition(lambda self: self.clients)
    @rule(which=st.integers(0, 1000))
    def leave(self, which: int) -> None:
        client = self.clients[which % len(self.clients)]
        assert client.sequence is not None
        client.left = True
        self.engine.cancel(client.sequence)

    @invariant()
    def blocks_are_those_of_who_runs(self) -> None:
        held = {
            block
            for sequence in self.scheduler.everyone()
            for branch in sequence.branches
            for block in branch.table.blocks
        }
        assert self.pool.in_use == len(held)

    def teardown(self) -> None:
        for _ in range(5000):
            self.now += 0.001  # deadlines of those that are left may pass or not; nobody waits for ever
            if not self.engine.step():
                break
        assert self.scheduler.everyone() == []
        assert self.pool.in_use == 0
        for client in self.clients:
            said = [event.token for event in client.events if isinstance(event, TokenEvent)]
            last = client.events[-1] if client.events else None
            most = client.request.sampling.max_new_tokens
            if client.request.sampling.beams == 1:
                alone = greedy(client.request.prompt, most)
                assert said == alone[: len(said)]
            if isinstance(last, FinishedEvent):
                assert len(said) == most
            elif isinstance(last, FailedEvent):
                assert isinstance(last.error, DeadlineFault)
            else:
                assert client.left


EngineMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEngineMachine = EngineMachine.TestCase
