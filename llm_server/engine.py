"""The generation loop: schedule, run, update, on a thread of its own.

The engine knows no torch: what computes logits is a :class:`ModelRunner`. It knows no grpc and no asyncio either:
whoever submits a request hands over a sink, which is called on the engine's thread and must not block.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llm_server.detokenizer import Detokenizer
from llm_server.faults import EngineClosedFault, GenerationFault
from llm_server.sampling import Sampler
from llm_server.scheduler import Plan, PrefillChunk, Scheduler
from llm_server.sequence import AdapterScales, Event, FailedEvent, GenerationRequest, Sequence, Sink, State
from llm_server.stop import StopMatcher

Logits = NDArray[np.float32]


class ModelRunner(Protocol):
    """Computes logits and keeps what it needs to go on (keys and values) per sequence number. One caller at a time."""

    @property
    def vocabulary_size(self) -> int:
        """Length V of a row of logits."""

    @property
    def context_length(self) -> int:
        """The most positions, prompt and answer together, that a sequence may have."""

    def prefill(
        self, number: int, tokens: SequenceOf[int], *, adapters: AdapterScales, last: bool
    ) -> Logits | None:
        """Read the next ``tokens`` of prompt ``number``. With ``last``: logits (V,) float32 after the final one."""

    def decode(self, numbers: SequenceOf[int], tokens: SequenceOf[int]) -> Logits:
        """Read one token of each sequence whose prompt has been read, all of them at once: logits (B, V) float32."""

    def release(self, number: int) -> None:
        """Forget a sequence; unknown numbers are fine."""


class Engine:
    """Serves generation requests with one :class:`ModelRunner`."""

    def __init__(
        self,
        runner: ModelRunner,
        token_bytes: SequenceOf[bytes],
        scheduler: Scheduler,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        """``token_bytes`` are the bytes of each token (see :mod:`llm_server.detokenizer`).

        ``on_failure`` is called, on the engine's thread, if the loop itself breaks: the engine is closed then, and the
        process had better end.
        """
        self._runner = runner
        self._token_bytes = token_bytes
        self._scheduler = scheduler
        self._clock = clock
        self._on_failure = on_failure
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the loop. Once per engine."""
        if self._thread is not None:
            raise RuntimeError("the engine was started already")
        self._thread = threading.Thread(target=self._loop, name="generation", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, sink: Sink) -> Sequence:
        """Queue ``request``. Events go to ``sink``: tokens, then one that ends it (none at all after a cancellation).

        Raises :class:`QueueFullFault`, :class:`EngineClosedFault`, and :class:`ValueError` for a prompt that is empty
        or leaves no room to answer.
        """
        context = self._runner.context_length
        if not 0 < len(request.prompt) < context:
            raise ValueError(f"a prompt has 1 to {context - 1} tokens, not {len(request.prompt)}")
        sequence = Sequence(
            number=next(self._numbers),
            request=request,
            max_length=context,
            sampler=Sampler(request.sampling, seed=request.seed, prompt=request.prompt),
            detokenizer=Detokenizer(self._token_bytes),
            stopper=StopMatcher(request.stop),
            sink=sink,
            arrived_at=self._clock(),
        )
        with self._changed:
            if self._closed:
                raise EngineClosedFault("the engine is closed")
            self._scheduler.add(sequence)
            self._changed.notify()
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Nobody waits for ``sequence`` any more: it leaves the queue now, or its slot before the next step."""
        with self._changed:
            sequence.cancelled = True
            self._scheduler.forget(sequence)
            self._changed.notify()

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
    def slots(self) -> int:
        """The most sequences that run at a time."""
        return self._scheduler.max_running

    @property
    def load(self) -> tuple[int, int]:
        """How many sequences run and how many wait, now."""
        with self._changed:
            return self._scheduler.running, self._scheduler.waiting

    def step(self) -> bool:
        """Schedule, run, update. False if there was nothing to do."""
        plan = self._schedule()
        if plan.decode:
            self._decode(plan.decode)
        if plan.prefill is not None:
            self._prefill(plan.prefill)
        return bool(plan)

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
            left = self._scheduler.everyone()
            for sequence in left:
                self._scheduler.end(sequence, self._clock())
        for sequence in left:
            sequence.sink(FailedEvent(fault))

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False once closed."""
        with self._changed:
            while not self._closed and not self._scheduler.everyone():
                self._changed.wait()
            return not self._closed

    def _schedule(self) -> Plan:
        now = self._clock()
        with self._changed:
            gone = self._scheduler.reap(now)
            plan = self._scheduler.plan(now)
        for sequence, fault in gone:
            self._runner.release(sequence.number)
            if fault is not None:
                sequence.sink(FailedEvent(fault))
        return plan

    def _prefill(self, chunk: PrefillChunk) -> None:
        sequence, request = chunk.sequence, chunk.sequence.request
        try:
            logits = self._runner.prefill(
                sequence.number,
                request.prompt[chunk.start : chunk.end],
                adapters=request.adapters,
                last=chunk.last,
            )
        except Exception as error:
            self._fail([sequence], error)
            return
        sequence.prefilled = chunk.end
        if logits is not None:
            sequence.state = State.DECODING
            self._advance(sequence, logits)

    def _decode(self, sequences: SequenceOf[Sequence]) -> None:
        try:
            logits = self._runner.decode(
                [sequence.number for sequence in sequences],
                [sequence.generated[-1] for sequence in sequences],
            )
        except Exception as error:
            self._fail(sequences, error)
            return
        for sequence, row in zip(sequences, logits, strict=True):
            self._advance(sequence, row)

    def _advance(self, sequence: Sequence, logits: Logits) -> None:
        if sequence.cancelled:
            return  # reaped before the next step
        try:
            token = sequence.sampler.choose(logits)
        except ValueError as error:
            self._fail([sequence], error)
            return
        now = self._clock()
        reason = sequence.accept(token, now)
        if reason is not None:
            self._end(sequence, sequence.finished(reason, now))

    def _fail(self, sequences: SequenceOf[Sequence], cause: Exception) -> None:
        for sequence in sequences:
            fault = GenerationFault(f"the model failed: {cause}")
            fault.__cause__ = cause
            self._end(sequence, FailedEvent(fault))

    def _end(self, sequence: Sequence, event: Event) -> None:
        self._runner.release(sequence.number)
        with self._changed:
            self._scheduler.end(sequence, self._clock())
        sequence.sink(event)
