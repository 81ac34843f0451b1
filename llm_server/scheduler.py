"""Which sequences run next: pure policy, no tensors, no threads, no clock of its own.

First come, first served, among equals in priority. Every step decodes one token for each running sequence and reads at
most ``prefill_chunk`` tokens of prompts, so that a long prompt delays the streams of others by a chunk and not by its
length. (A prompt that cannot be read in parts is one chunk, and the only one of its step.) Who does not get the blocks
for one more token takes them from whoever comes last: that one waits again, and what it had is read anew later
(preemption by recompute).
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from llm_server.beam_search import Extension
from llm_server.faults import DeadlineFault, QueueFullFault
from llm_server.kv_cache import BlockPool
from llm_server.sequence import Branch, Sequence, State

# Before anything has finished there is nothing to estimate from.
_FIRST_ESTIMATE_S = 1.0
_ESTIMATE_WEIGHT = 0.2
_RETRY_RANGE_S = (0.1, 30.0)


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Tokens ``start`` to ``end`` of what a sequence has written; ``last`` if there are no more of them."""

    sequence: Sequence
    tokens: tuple[int, ...]
    start: int
    end: int
    last: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step does: copies of blocks (from, to) first."""

    prefill: tuple[PrefillChunk, ...]
    decode: tuple[Sequence, ...]
    copies: tuple[tuple[int, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.prefill) or bool(self.decode)


class Scheduler:
    """Keeps the waiting and the running sequences. Not thread-safe: the engine holds its lock around each call."""

    def __init__(self, *, max_running: int, max_waiting: int, prefill_chunk: int, pool: BlockPool) -> None:
        """At most ``max_running`` rows are in a batch, at most ``max_waiting`` sequences more wait.

        ``prefill_chunk`` is in tokens. Chunk borders are its multiples, so that company never changes them, and the end
        of what a prompt shares with others (:attr:`GenerationRequest.shared`). What is taken from
        another prompt ends at such a border: so one whose beginning is remembered has the chunks of one that is read
        from the start, which gives it the same bits. Kernels choose the order of their sums by the number of rows.
        """
        if min(max_running, prefill_chunk) < 1 or max_waiting < 0:
            raise ValueError("max_running and prefill_chunk are at least 1, max_waiting at least 0")
        self.max_running = max_running
        self.pool = pool
        self.preemptions = 0
        self._max_waiting = max_waiting
        self._prefill_chunk = prefill_chunk
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._service_s = _FIRST_ESTIMATE_S

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._running)

    @property
    def _rows(self) -> int:
        return sum(sequence.width for sequence in self._running)

    def check_room(self) -> None:
        """Raises :class:`QueueFullFault` if :meth:`add` would: before anything is spent on a request."""
        free = max(self.max_running - self._rows, 0)
        if len(self._waiting) >= self._max_waiting + free:
            raise QueueFullFault(len(self._waiting), self._retry_after_s())

    def fits(self, prompt: int, answer: int, width: int) -> bool:
        """Whether a sequence of such lengths could run at all, with everything to itself."""
        if width == 1:
            return self.pool.needed(prompt + answer) <= self.pool.blocks
        tails = width * (self.pool.needed(answer) + 1)
        return width <= self.max_running and self.pool.needed(prompt) + tails <= self.pool.blocks

    def add(self, sequence: Sequence) -> None:
        """Queue ``sequence``. Raises :class:`QueueFullFault` when neither a slot nor a place in the queue is free."""
        self.check_room()
        self._queue(sequence)

    def _queue(self, sequence: Sequence) -> None:
        bisect.insort(self._waiting, sequence, key=lambda one: one.order)

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

        Their blocks are free. Returned are those that were told of nothing yet.
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
        """Give places and blocks to those that come first, and say what the next step does."""
        copies = self._room_for_next_tokens()
        self._admit(now)
        chunks: list[PrefillChunk] = []
        budget = self._prefill_chunk
        for sequence in self._running:
            if sequence.state is not State.PREFILLING:
                continue
            its = self._chunks(sequence, budget, alone=not chunks)
            if not its:
                break
            budget -= its[-1].end - its[0].start
            chunks += its
        decoding = tuple(s for s in self._running if s.state is State.DECODING)
        alive = {id(branch.table) for s in decoding for branch in s.branches}
        return Plan(tuple(chunks), decoding, tuple(copy for table, copy in copies if table in alive))

    def _chunks(self, sequence: Sequence, budget: int, *, alone: bool) -> list[PrefillChunk]:
        """What of ``sequence`` is read next within ``budget``; at least one chunk if it has the step to itself."""
        branch = sequence.branches[0]
        tokens = sequence.written(branch)
        start, chunks = branch.table.computed, list[PrefillChunk]()
        while start < len(tokens):
            end = min(self._border(sequence, start), len(tokens))
            # The first may be longer than the budget: a prompt that cannot be divided.
            if end - start > budget and not (alone and not chunks):
                break
            chunks.append(PrefillChunk(sequence, tuple(tokens[start:end]), start, end, end == len(tokens)))
            budget -= end - start
            start = end
        return chunks

    def _border(self, sequence: Sequence, start: int) -> int:
        """Where the chunk from ``start`` on ends."""
        if start < sequence.undivided:
            return sequence.undivided
        border = start - start % self._prefill_chunk + self._prefill_chunk
        shared = self._shared(sequence)
        return min(border, shared) if start < shared else border

    def _usable(self, sequence: Sequence, found: int) -> int:
        """How many of ``found`` tokens that were read before are taken: as many as end where a chunk ends."""
        if sequence.generated or not sequence.request.shared:
            # Who goes on after a preemption takes what it can get: it is not what it would have been alone anyway.
            return found
        shared = self._shared(sequence)
        return (
            shared if found >= shared else found - found % math.lcm(self._prefill_chunk, self.pool.block_size)
        )

    def _shared(self, sequence: Sequence) -> int:
        """Of what the prompt shares with others, the tokens in whole blocks: only these can be shared."""
        shared = sequence.request.shared
        return shared - shared % self.pool.block_size

    def _room_for_next_tokens(self) -> list[tuple[int, tuple[int, int]]]:
        """A block of its own under the next token of every row. Who cannot get one makes the last of all wait."""
        copies: list[tuple[int, tuple[int, int]]] = []
        for sequence in sorted(self._running, key=lambda one: one.order):
            if sequence.state is not State.DECODING:
                continue  # waits again by now, or still reads: its blocks are there
            for branch in sequence.branches:
                while sequence.state is State.DECODING and not self._room(sequence, branch, copies):
                    self._preempt(max(self._running, key=lambda one: one.order))
                if sequence.state is not State.DECODING:
                    break
        return copies

    def _room(self, sequence: Sequence, branch: Branch, copies: list[tuple[int, tuple[int, int]]]) -> bool:
        position = sequence.length(branch) - 1
        if not self.pool.reserve(branch.table, position + 1):
            return False
        if not self.pool.shared(branch.table, position):
            return True
        copy = self.pool.own(branch.table, position)
        if copy is not None:
            copies.append((id(branch.table), copy))
        return copy is not None

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._release(sequence, keep=True)
        sequence.state = State.WAITING
        sequence.preemptions += 1
        self.preemptions += 1
        self._queue(sequence)

    def _admit(self, now: float) -> None:
        """Start those that wait, in order; who comes first and does not fit holds up the rest."""
        while self._waiting:
            first = self._waiting[0]
            if self._rows + first.width > self.max_running or not self._start(first, now):
                last = max(self._running, key=lambda one: one.order, default=None)
                # Only for a higher priority does one that runs give way to one that waits.
                if last is None or last.request.priority >= first.request.priority:
                    return
                self._preempt(last)

    def _start(self, sequence: Sequence, now: float) -> bool:
        # Those that run will soon want a block each; what is left to them is not taken away again at once.
        spare = self._rows
        table = self.pool.open(
            sequence.root, sequence.resumed(), spare=spare, usable=lambda found: self._usable(sequence, found)
        )
        if table is None:
            return False
        self._waiting.remove(sequence)
        sequence.begin(table)
        if sequence.started_at is None:
            sequence.started_at = now
            sequence.cached_tokens = table.computed
        self._running.append(sequence)
        self._running.sort(key=lambda one: one.order)
        return True

    def end(self, sequence: Sequence, now: float, *, keep: bool = True) -> None:
        """The sequence is over, however it ended: its slot, its blocks or its place in the queue are free.

        ``keep`` off: it failed, and what it left in its blocks is not to be found again.
        """
        self._release(sequence, keep=keep)
        if sequence.state is State.WAITING:
            self._waiting.remove(sequence)
        elif sequence.state is not State.ENDED:
            self._running.remove(sequence)
            if sequence.started_at is not None:
                self._service_s += _ESTIMATE_WEIGHT * (now - sequence.started_at - self._service_s)
        sequence.state = State.ENDED

    def _release(self, sequence: Sequence, *, keep: bool) -> None:
        for branch in sequence.branches:
            self.pool.close(branch.table, keep=keep)
        sequence.branches = []

    def abandon(self) -> list[Sequence]:
        """Nothing will run any more: everyone is out, and returned. Blocks are left as they are."""
        left = self.everyone()
        self._running.clear()
        self._waiting.clear()
        for sequence in left:
            sequence.state = State.ENDED
        return left

    def regrown(self, branches: list[Branch], extensions: list[Extension]) -> list[Branch]:
        """The branches of the next step: each goes on from the table of its parent; tables without heirs are freed."""
        heirs: set[int] = set()
        grown: list[Branch] = []
        for one in extensions:
            parent = branches[one.parent]
            table = parent.table if one.parent not in heirs else self.pool.fork(parent.table)
            heirs.add(one.parent)
            grown.append(Branch(table, [*parent.generated, one.token]))
        for index, branch in enumerate(branches):
            if index not in heirs:
                self.pool.close(branch.table)
        return grown

    def everyone(self) -> list[Sequence]:
        """All that wait or run, those that run first."""
        return [*self._running, *self._waiting]
