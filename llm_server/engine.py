"""The generation loop: schedule, run, update, on a thread of its own.

The engine knows no torch: what computes logits is a :class:`llm_server.runner.ModelRunner`. It knows no grpc and no
asyncio either: whoever submits a request hands over a sink, which is called on the engine's thread and must not block.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from typing import Any, TypeVar

from llm_server.adapter_registry import AdapterRegistry
from llm_server.detokenizer import Detokenizer
from llm_server.engine_report import StepReport, Usage
from llm_server.faults import ConstraintFault, EngineClosedFault, GenerationFault, TooLongFault
from llm_server.runner import DecodeRow, Logits, ModelRunner
from llm_server.sampling import Sampler
from llm_server.scheduler import Plan, PrefillChunk, Scheduler
from llm_server.sequence import (
    Branch,
    Event,
    FailedEvent,
    FinishReason,
    GenerationRequest,
    Sequence,
    Sink,
    State,
)
from llm_server.stop import StopMatcher
from llm_server.token_logprobs import token_logprobs
from serving.engine.loss import device_lost

T = TypeVar("T")


class Engine:
    """Serves generation requests with one :class:`ModelRunner`."""

    def __init__(
        self,
        runner: ModelRunner,
        token_bytes: SequenceOf[bytes],
        scheduler: Scheduler,
        *,
        registry: AdapterRegistry | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        """``token_bytes`` are the bytes of each token (see :mod:`llm_server.detokenizer`).

        ``on_failure`` is called, on the engine's thread, if the loop itself breaks or the device is lost: the engine is
        closed then, and the process had better end.
        """
        self._runner = runner
        self._token_bytes = token_bytes
        self._scheduler = scheduler
        self._registry = registry or AdapterRegistry()
        self._clock = clock
        self._on_failure = on_failure
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._on_step: Callable[[StepReport], None] = lambda report: None
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the loop. Once per engine."""
        if self._thread is not None:
            raise RuntimeError("the engine was started already")
        self._thread = threading.Thread(target=self._loop, name="generation", daemon=True)
        self._thread.start()

    def watch(self, on_step: Callable[[StepReport], None]) -> None:
        """``on_step`` is told of each step that did something, on the engine's thread; it must not block."""
        self._on_step = on_step

    def check_room(self) -> None:
        """Raises what :meth:`submit` would, as far as it does not depend on the request."""
        with self._changed:
            if self._closed:
                raise EngineClosedFault("the engine is closed")
            self._scheduler.check_room()

    def submit(self, request: GenerationRequest, sink: Sink) -> Sequence:
        """Queue ``request``. Events go to ``sink``: tokens, then one that ends it (none at all after a cancellation).

        Raises :class:`QueueFullFault`, :class:`EngineClosedFault`, :class:`UnknownAdapterFault`,
        :class:`TooLongFault`, and :class:`ValueError` for a prompt that is empty or leaves no room to answer.
        """
        context = self.context_length
        if not 0 < len(request.prompt) < context:
            raise ValueError(f"a prompt has 1 to {context - 1} tokens, not {len(request.prompt)}")
        sequence = Sequence(
            number=next(self._numbers),
            request=request,
            max_length=context,
            sampler=Sampler(request.sampling, seed=request.seed, prompt=request.text),
            detokenizer=Detokenizer(self._token_bytes),
            stopper=StopMatcher(request.stop),
            sink=sink,
            arrived_at=self._clock(),
        )
        if request.constraint is not None:
            sequence.constraint = request.constraint.start(request.end_tokens)
        if not self._scheduler.fits(len(request.prompt), sequence.most_new_tokens, sequence.width):
            raise TooLongFault("prompt and answer, times the beams, are more than can be held")
        with self._changed:
            if self._closed:
                raise EngineClosedFault("the engine is closed")
            # Under the lock: between the two nobody can conclude that a version of an adapter is not used.
            sequence.adapters = self._registry.resolve(request.adapters)
            self._scheduler.add(sequence)
            self._changed.notify()
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Nobody waits for ``sequence`` any more: it leaves the queue now, or its slot before the next step."""
        with self._changed:
            sequence.cancelled = True
            self._scheduler.forget(sequence)
            self._changed.notify()

    def call(self, job: Callable[[], T]) -> Future[T]:
        """Have ``job`` done between two steps, where nothing else uses the runner. The future has its result.

        Raises :class:`EngineClosedFault`.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise EngineClosedFault("the engine is closed")
            self._jobs.append((job, future))
            self._changed.notify()
        return future

    def close(self, timeout_s: float = 10.0) -> None:
        """Take no more work, fail what is left, and wait for the thread. Harmless when repeated."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                raise TimeoutError(f"the generation thread did not end within {timeout_s} s")

    @property
    def context_length(self) -> int:
        """The most positions of a sequence: the runner's, or what the blocks hold if that is less."""
        return min(self._runner.context_length, self._scheduler.pool.capacity)

    @property
    def slots(self) -> int:
        """The most sequences that run at a time."""
        return self._scheduler.max_running

    @property
    def load(self) -> tuple[int, int]:
        """How many sequences run and how many wait, now."""
        with self._changed:
            return self._scheduler.running, self._scheduler.waiting

    @property
    def usage(self) -> Usage:
        """Counts of what is in use."""
        with self._changed:
            pool = self._scheduler.pool
            return Usage(
                running=self._scheduler.running,
                waiting=self._scheduler.waiting,
                blocks_in_use=pool.in_use,
                blocks_remembered=pool.remembered,
                blocks=pool.blocks,
                preemptions=self._scheduler.preemptions,
            )

    def step(self) -> bool:
        """Do what was called for, then schedule, run, update. False if there was nothing to do."""
        worked = self._do_jobs()
        began = self._clock()
        plan = self._schedule()
        if plan.copies:
            self._runner.copy_blocks(plan.copies)
        rows = self._decode(plan.decode) if plan.decode else 0
        for chunk in plan.prefill:
            self._prefill(chunk)
        if plan:
            read = sum(chunk.end - chunk.start for chunk in plan.prefill)
            chosen = len(plan.decode) + sum(chunk.last for chunk in plan.prefill)
            self._on_step(StepReport(rows, read, chosen, self._clock() - began))
        return bool(plan) or worked

    def _loop(self) -> None:
        fault: Exception = EngineClosedFault("the engine was closed")
        try:
            while self._wait_for_work():
                self.step()
        except Exception as error:  # a sequence's own failure ends in _fail; this is the loop's
            fault = GenerationFault(f"the engine broke: {error!r}")
            fault.__cause__ = error
            if self._on_failure is not None:
                self._on_failure(error)
        with self._changed:
            self._closed = True
            left = self._scheduler.abandon()
            jobs = [*self._jobs]
            self._jobs.clear()
        for sequence in left:
            sequence.sink(FailedEvent(fault))
        for _, future in jobs:
            future.set_exception(fault)

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False once closed."""
        with self._changed:
            while not self._closed and not self._jobs and not self._scheduler.everyone():
                self._changed.wait()
            return not self._closed

    def _do_jobs(self) -> bool:
        """What was asked for before this step; a job's failure is its caller's."""
        with self._changed:
            jobs = [*self._jobs]
            self._jobs.clear()
        for job, future in jobs:
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)
        return bool(jobs)

    def _schedule(self) -> Plan:
        now = self._clock()
        with self._changed:
            gone = self._scheduler.reap(now)
            plan = self._scheduler.plan(now)
            unused = self._registry.collect(sequence.adapters for sequence in self._scheduler.everyone())
        for sequence, fault in gone:
            if fault is not None:
                sequence.sink(FailedEvent(fault))
        for key in unused:
            self._runner.drop_adapter(key)
        return plan

    def _prefill(self, chunk: PrefillChunk) -> None:
        sequence = chunk.sequence
        if sequence.state is not State.PREFILLING:
            return  # it failed in an earlier chunk of this step
        branch = sequence.branches[0]
        try:
            logits = self._runner.prefill(
                chunk.tokens,
                start=chunk.start,
                blocks=branch.table.blocks,
                adapters=sequence.adapters,
                last=chunk.last,
                conditioning=sequence.request.conditioning,
            )
        except Exception as error:
            self._fail([sequence], error)
            return
        self._read(sequence, branch, chunk.end)
        if logits is not None:
            sequence.state = State.DECODING
            self._advance(sequence, logits[None])

    def _decode(self, sequences: SequenceOf[Sequence]) -> int:
        rows = [
            DecodeRow(
                token=branch.generated[-1],
                position=sequence.length(branch) - 1,
                blocks=branch.table.blocks,
                adapters=sequence.adapters,
            )
            for sequence in sequences
            for branch in sequence.branches
        ]
        try:
            logits = self._runner.decode(rows)
        except Exception as error:
            self._fail(sequences, error)
            return len(rows)
        first = 0
        for sequence in sequences:
            for branch in sequence.branches:
                self._read(sequence, branch, sequence.length(branch))
            width = len(sequence.branches)
            self._advance(sequence, logits[first : first + width])
            first += width
        return len(rows)

    def _read(self, sequence: Sequence, branch: Branch, positions: int) -> None:
        """Keys and values of the first ``positions`` are there; whole blocks of them may be found by others."""
        branch.table.computed = positions
        pool = self._scheduler.pool
        if positions // pool.block_size > len(branch.table.digests):
            with self._changed:
                pool.publish(branch.table, sequence.written(branch))

    def _advance(self, sequence: Sequence, logits: Logits) -> None:
        """Choose from logits (branches, V) and go on, or end."""
        if sequence.cancelled:
            return  # reaped before the next step
        try:
            if sequence.beams is not None:
                reason = self._advance_beams(sequence, logits)
            else:
                row = logits[0]
                held = sequence.constraint
                token = sequence.sampler.choose(row if held is None else held.mask(row))
                wanted = sequence.request.logprobs
                logprobs = None if wanted is None else token_logprobs(row, token, wanted)
                reason = sequence.accept(token, self._clock(), logprobs)
        except ConstraintFault as fault:
            self._end(sequence, FailedEvent(fault), keep=False)
            return
        except ValueError as error:
            self._fail([sequence], error)
            return
        if reason is not None:
            self._end(sequence, sequence.finished(reason, self._clock()))

    def _advance_beams(self, sequence: Sequence, logits: Logits) -> FinishReason | None:
        assert sequence.beams is not None
        extensions = sequence.beams.advance(logits)
        if extensions:
            with self._changed:
                sequence.branches = self._scheduler.regrown(sequence.branches, extensions)
            return None
        now = self._clock()
        for token in sequence.beams.best():
            reason = sequence.accept(token, now)
            if reason is not None:
                return reason
        return FinishReason.LENGTH

    def _fail(self, sequences: SequenceOf[Sequence], cause: Exception) -> None:
        """End ``sequences``. Raises ``cause``, which ends the engine, if the device is lost to this process."""
        for sequence in sequences:
            fault = GenerationFault(f"the model failed: {cause}")
            fault.__cause__ = cause
            self._end(sequence, FailedEvent(fault), keep=False)
        if device_lost(cause):
            raise cause

    def _end(self, sequence: Sequence, event: Event, *, keep: bool = True) -> None:
        with self._changed:
            self._scheduler.end(sequence, self._clock(), keep=keep)
        sequence.sink(event)
