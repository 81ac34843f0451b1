"""Which sequences run next: pure policy, no tensors, no threads, no clock of its own.

First come, first served. Every step decodes one token for each running sequence and reads at most one chunk of one
prompt, so that a long prompt delays the streams of others by a chunk and not by its length.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from llm_server.faults import DeadlineFault, QueueFullFault
from llm_server.sequence import Sequence, State

# Before anything has finished there is nothing to estimate from.
_FIRST_ESTIMATE_S = 1.0
_ESTIMATE_WEIGHT = 0.2
_RETRY_RANGE_S = (0.1, 30.0)


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Tokens ``start`` to ``end`` of a sequence's prompt; ``last`` if the prompt ends there."""

    sequence: Sequence
    start: int
    end: int

    @property
    def last(self) -> bool:
        """Whether logits are wanted after this chunk."""
        return self.end == len(self.sequence.request.prompt)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step does."""

    prefill: PrefillChunk | None
    decode: tuple[Sequence, ...]

    def __bool__(self) -> bool:
        return self.prefill is not None or bool(self.decode)


class Scheduler:
    """Keeps the waiting and the running sequences. Not thread-safe: the engine holds its lock around each call."""

    def __init__(self, *, max_running: int, max_waiting: int, prefill_chunk: int) -> None:
        """At most ``max_running`` sequences hold a slot, at most ``max_waiting`` more wait for one.

        ``prefill_chunk`` is in tokens. Chunk borders depend on the prompt alone, so that they never change an answer.
        """
        if min(max_running, prefill_chunk) < 1 or max_waiting < 0:
            raise ValueError("max_running and prefill_chunk are at least 1, max_waiting at least 0")
        self.max_running = max_running
        self._max_waiting = max_waiting
        self._prefill_chunk = prefill_chunk
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._service_s = _FIRST_ESTIMATE_S

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many hold a slot."""
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        """Queue ``sequence``. Raises :class:`QueueFullFault` when neither a slot nor a place in the queue is free."""
        free_slots = self.max_running - len(self._running)
        if len(self._waiting) >= self._max_waiting + max(free_slots, 0):
            raise QueueFullFault(len(self._waiting), self._retry_after_s())
        self._waiting.append(sequence)

    def _retry_after_s(self) -> float:
        """Until one more place is free: a slot frees every (time of a sequence / slots)."""
        least, most = _RETRY_RANGE_S
        return min(max(self._service_s / self.max_running, least), most)

    def forget(self, sequence: Sequence) -> None:
        """Take out a sequence that still waits; one that runs is left to :meth:`reap`."""
        if sequence.state is State.WAITING and sequence in self._waiting:
            self._waiting.remove(sequence)
            sequence.state = State.ENDED

    def reap(self, now: float) -> list[tuple[Sequence, DeadlineFault | None]]:
        """Take out whoever was cancelled (None) or is out of time, before any of them costs another step.

        Returned are those that were told of nothing yet; the caller frees what they hold.
        """
        gone: list[tuple[Sequence, DeadlineFault | None]] = []
        for sequence in [*self._waiting, *self._running]:
            deadline = sequence.request.deadline
            if sequence.cancelled:
                gone.append((sequence, None))
            elif deadline is not None and now >= deadline:
                gone.append((sequence, DeadlineFault("the deadline passed before the answer was complete")))
        for sequence, _ in gone:
            self.end(sequence, now)
        return gone

    def plan(self, now: float) -> Plan:
        """Give free slots to those that wait, and say what the next step does."""
        while self._waiting and len(self._running) < self.max_running:
            sequence = self._waiting.popleft()
            sequence.state = State.PREFILLING
            sequence.started_at = now
            self._running.append(sequence)
        prefilling = next((s for s in self._running if s.state is State.PREFILLING), None)
        chunk = None
        if prefilling is not None:
            start = prefilling.prefilled
            end = min(start + self._prefill_chunk, len(prefilling.request.prompt))
            chunk = PrefillChunk(prefilling, start, end)
        return Plan(chunk, tuple(s for s in self._running if s.state is State.DECODING))

    def end(self, sequence: Sequence, now: float) -> None:
        """The sequence is over, however it ended: its slot or its place in the queue is free."""
        if sequence.state is State.WAITING:
            self._waiting.remove(sequence)
        elif sequence.state is not State.ENDED:
            self._running.remove(sequence)
            if sequence.started_at is not None:
                self._service_s += _ESTIMATE_WEIGHT * (now - sequence.started_at - self._service_s)
        sequence.state = State.ENDED

    def everyone(self) -> list[Sequence]:
        """All that wait or run, those that run first."""
        return [*self._running, *self._waiting]
