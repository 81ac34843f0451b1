"""Generation by vLLM in place of the own engine, for models that take text alone (no crayon, no mixers).

Only computing is vLLM's. Prompts, stop strings, text and the order of events are those of :mod:`llm_server.sequence`,
so that a caller cannot tell the engines apart by anything but speed and the last bits of the logits. vLLM applies one
adapter to a request; a set of them with scales becomes one adapter of the sum of their ranks
(:mod:`llm_server.vllm_adapters`). Not offered: beams, output forms, pictures.

vLLM wants to be called from the loop it was made in: that loop runs on a thread of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from llm_server.adapter_files import AdapterFiles
from llm_server.adapter_registry import AdapterRegistry
from llm_server.detokenizer import Detokenizer
from llm_server.engine_report import StepReport, Usage
from llm_server.faults import DeadlineFault, EngineClosedFault, GenerationFault, QueueFullFault
from llm_server.kv_cache import BlockTable
from llm_server.sampling import Sampler
from llm_server.sequence import (
    AdapterScales,
    Branch,
    Event,
    FailedEvent,
    FinishReason,
    GenerationRequest,
    Sequence,
    Sink,
    State,
    TokenLogprobs,
)
from llm_server.stop import StopMatcher
from llm_server.vllm_adapters import JoinedAdapters
from llm_server.vllm_api import AsyncEngine, Completion, Logprob, VllmApi
from serving.errors import UnsupportedOptionError

_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How vLLM is run.

    ``arguments`` as of :func:`llm_server.vllm_api.engine_arguments`; ``scratch`` is where sets of adapters are kept
    while the engine runs, None for the system's place for such.
    """

    arguments: Mapping[str, Any]
    context_length: int
    max_sequences: int
    max_queue: int
    scratch: Path | None = None


class VllmEngine:
    """Serves generation requests with vLLM; used like :class:`llm_server.engine.Engine`."""

    def __init__(
        self,
        api: VllmApi,
        token_bytes: SequenceOf[bytes],
        options: VllmOptions,
        *,
        registry: AdapterRegistry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``token_bytes`` are the bytes of each token (see :mod:`llm_server.detokenizer`)."""
        self._api = api
        self._token_bytes = token_bytes
        self._options = options
        self._registry = registry or AdapterRegistry()
        self._clock = clock
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._served: dict[int, tuple[Sequence, Future[None]]] = {}
        self._joined: JoinedAdapters | None = None
        self._on_step: Callable[[StepReport], None] = lambda report: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._engine: AsyncEngine | None = None
        self._closed = False

    def start(self) -> None:
        """Start vLLM and wait until it has loaded the model; what it raises is raised."""
        if self._thread is not None:
            raise RuntimeError("the engine was started already")
        self._joined = JoinedAdapters(self._api.lora_request, self._options.scratch)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()

        async def make() -> AsyncEngine:
            return self._api.make_engine(self._options.arguments)

        self._engine = asyncio.run_coroutine_threadsafe(make(), self._loop).result()

    def watch(self, on_step: Callable[[StepReport], None]) -> None:
        """``on_step`` is told of each piece that vLLM hands over, on the engine's thread; it must not block."""
        self._on_step = on_step

    def check_room(self) -> None:
        """Raises what :meth:`submit` would, as far as it does not depend on the request."""
        with self._lock:
            self._check_room()

    def _check_room(self) -> None:
        if self._closed or self._engine is None:
            raise EngineClosedFault("the engine is closed")
        waiting = len(self._served) - self._options.max_sequences
        if waiting >= self._options.max_queue:
            raise QueueFullFault(max(waiting, 0), _RETRY_AFTER_S)

    def submit(self, request: GenerationRequest, sink: Sink) -> Sequence:
        """Queue ``request``; events go to ``sink`` as from the own engine.

        Raises :class:`QueueFullFault`, :class:`EngineClosedFault`, :class:`UnknownAdapterFault`, ValueError for a
        prompt without room for an answer, and UnsupportedOptionError for what vLLM is not asked to do.
        """
        _check_supported(request)
        if not 0 < len(request.prompt) < self.context_length:
            raise ValueError(f"a prompt has 1 to {self.context_length - 1} tokens, not {len(request.prompt)}")
        sequence = Sequence(
            number=next(self._numbers),
            request=request,
            max_length=self.context_length,
            sampler=Sampler(request.sampling, seed=request.seed, prompt=()),
            detokenizer=Detokenizer(self._token_bytes),
            stopper=StopMatcher(request.stop),
            sink=sink,
            arrived_at=self._clock(),
            branches=[Branch(BlockTable(b""))],
        )
        with self._lock:
            self._check_room()
            sequence.adapters = self._registry.resolve(request.adapters)
            files = self._files(request.adapters)
            assert self._loop is not None
            task = asyncio.run_coroutine_threadsafe(self._serve(sequence, files), self._loop)
            self._served[sequence.number] = sequence, task
        task.add_done_callback(lambda _: self._forget(sequence.number))
        return sequence

    def _files(self, adapters: AdapterScales) -> list[tuple[AdapterFiles, float]]:
        loaded = {one.files.name: one.files for one in self._registry.all()}
        return [(loaded[name], scale) for name, scale in adapters]

    def _forget(self, number: int) -> None:
        with self._lock:
            self._served.pop(number, None)

    def cancel(self, sequence: Sequence) -> None:
        """Nobody waits for ``sequence`` any more."""
        sequence.cancelled = True
        with self._lock:
            served = self._served.get(sequence.number)
        if served is not None:
            served[1].cancel()

    def close(self, timeout_s: float = 10.0) -> None:
        """Take no more work, fail what is left, end vLLM. Harmless when repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            left = [*self._served.values()]
        for _, task in left:
            task.cancel()
        if self._loop is None or self._thread is None or self._joined is None:
            return
        try:
            if self._engine is not None:
                self._engine.shutdown()
            asyncio.run_coroutine_threadsafe(_settle(), self._loop).result(timeout_s)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout_s)
            self._loop.close()
        finally:
            self._joined.close()
        for sequence, _ in left:
            if sequence.state is not State.ENDED and not sequence.cancelled:
                sequence.sink(FailedEvent(EngineClosedFault("the engine was closed")))

    @property
    def context_length(self) -> int:
        """The most positions of a sequence."""
        return self._options.context_length

    @property
    def slots(self) -> int:
        """The most sequences that run at a time."""
        return self._options.max_sequences

    @property
    def load(self) -> tuple[int, int]:
        """How many sequences run and how many wait, now: those beyond ``slots`` wait inside vLLM."""
        with self._lock:
            count = len(self._served)
        return min(count, self.slots), max(count - self.slots, 0)

    @property
    def usage(self) -> Usage:
        """Counts of what is in use; blocks are vLLM's own affair and not counted here."""
        running, waiting = self.load
        return Usage(running=running, waiting=waiting)

    async def _serve(self, sequence: Sequence, files: SequenceOf[tuple[AdapterFiles, float]]) -> None:
        try:
            deadline = sequence.request.deadline
            async with asyncio.timeout(None if deadline is None else deadline - self._clock()):
                event: Event = await self._generate(sequence, files)
        except TimeoutError:
            event = FailedEvent(DeadlineFault("the deadline passed before the answer was complete"))
        except Exception as error:
            fault = GenerationFault(f"vLLM failed: {error!r}")
            fault.__cause__ = error
            event = FailedEvent(fault)
        sequence.state = State.ENDED
        # Whoever hears of the end can have the place.
        self._forget(sequence.number)
        sequence.sink(event)

    async def _generate(self, sequence: Sequence, files: SequenceOf[tuple[AdapterFiles, float]]) -> Event:
        assert self._joined is not None
        async with self._joined.using(files) if files else nullcontext() as adapter:
            return await self._answer(sequence, adapter)

    async def _answer(self, sequence: Sequence, adapter: Any | None) -> Event:
        assert self._engine is not None
        number = f"polysight-{sequence.number}"
        sequence.started_at = self._clock()
        sequence.state = State.DECODING
        outputs = self._engine.generate(
            {"prompt_token_ids": [*sequence.request.prompt]},
            self._sampling(sequence),
            number,
            lora_request=adapter,
            priority=-sequence.request.priority,
        )
        reason: FinishReason | None = None
        async with aclosing(cast("Any", outputs)) as pieces:
            async for piece in pieces:
                sequence.cached_tokens = piece.num_cached_tokens
                began = self._clock()
                reason = self._take(sequence, piece.outputs[0])
                self._on_step(StepReport(1, 0, len(piece.outputs[0].token_ids), self._clock() - began))
                if reason is not None:
                    break
        # What ended on a stop string is still being written over there.
        await self._engine.abort(number)
        if reason is None:
            raise RuntimeError("the answer broke off")
        return sequence.finished(reason, self._clock())

    def _take(self, sequence: Sequence, completion: Completion) -> FinishReason | None:
        """Hand on the new tokens; why it ends, if it does."""
        nothing: list[Mapping[int, Logprob] | None] = [None] * len(completion.token_ids)
        logprobs = completion.logprobs or nothing
        for token, found in zip(completion.token_ids, logprobs, strict=True):
            wanted = sequence.request.logprobs
            said = None if wanted is None or found is None else _logprobs(token, found, wanted)
            reason = sequence.accept(token, self._clock(), said)
            if reason is not None:
                return reason
        match completion.finish_reason:
            case None:
                return None
            case "stop":
                return FinishReason.END_OF_TURN
            case "length":
                return FinishReason.LENGTH
            case other:
                raise RuntimeError(f"the answer ended with {other!r}")

    def _sampling(self, sequence: Sequence) -> Any:
        request, wanted = sequence.request, sequence.request.sampling
        return self._api.sampling_params(
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            top_k=wanted.top_k or -1,
            min_p=wanted.min_p,
            repetition_penalty=wanted.repetition_penalty,
            # Its seeds are signed.
            seed=request.seed & (2**63 - 1),
            max_tokens=sequence.most_new_tokens,
            stop_token_ids=sorted(request.end_tokens),
            logprobs=request.logprobs,
            detokenize=False,
            output_kind=self._api.delta,
        )


def _check_supported(request: GenerationRequest) -> None:
    for option, asked in (
        ("sampling.beams", request.sampling.beams > 1),
        ("constraint", request.constraint is not None),
        ("image", getattr(request, "conditioning", None) is not None),
    ):
        if asked:
            raise UnsupportedOptionError(
                f"{option}: the vllm backend does not offer it", metadata={"option": option}
            )


def _logprobs(token: int, found: Mapping[int, Logprob], count: int) -> TokenLogprobs:
    likeliest = sorted(
        ((number, one.logprob) for number, one in found.items()), key=lambda one: (-one[1], one[0])
    )
    return TokenLogprobs(found[token].logprob, tuple(likeliest[:count]))


async def _settle() -> None:
    """Let every other task of the loop end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
