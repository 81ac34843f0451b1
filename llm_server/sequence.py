"""One request on its way through the engine, and what comes out of it.

Plain data: no torch, no grpc, no asyncio. Times are seconds on a monotonic clock.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from llm_server.detokenizer import Detokenizer
from llm_server.sampling import Sampler, SamplingParams
from llm_server.stop import StopMatcher

# Adapter names with the factor on their own scaling, sorted by name, each name once. Empty: the base alone.
AdapterScales = tuple[tuple[str, float], ...]


class FinishReason(enum.Enum):
    """Why a sequence ended well."""

    END_OF_TURN = "end_of_turn"
    STOP_STRING = "stop_string"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What is to be generated. ``prompt`` holds token ids, template included, and is not empty."""

    prompt: tuple[int, ...]
    sampling: SamplingParams
    seed: int
    end_tokens: frozenset[int]
    adapters: AdapterScales = ()
    stop: tuple[str, ...] = ()
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A token was chosen. ``text`` is what it completed; all texts joined are the text of the answer."""

    text: str
    token: int


@dataclass(frozen=True, slots=True)
class FinishedEvent:
    """The sequence ended well; nothing follows. Durations in seconds."""

    reason: FinishReason
    text: str
    prompt_tokens: int
    generated_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    first_token_s: float


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """The sequence ended badly; nothing follows."""

    error: Exception


Event = TokenEvent | FinishedEvent | FailedEvent
Sink = Callable[[Event], None]


class State(enum.Enum):
    """Where a sequence is."""

    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Sequence:
    """A request with all that changes while it is served, by the engine's thread alone but for ``cancelled``."""

    number: int
    request: GenerationRequest
    max_length: int
    sampler: Sampler
    detokenizer: Detokenizer
    stopper: StopMatcher
    sink: Sink
    arrived_at: float
    state: State = State.WAITING
    cancelled: bool = False
    prefilled: int = 0
    generated: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    started_at: float | None = None
    first_token_at: float | None = None

    @property
    def length(self) -> int:
        """Positions in use: prompt and answer."""
        return len(self.request.prompt) + len(self.generated)

    def accept(self, token: int, now: float) -> FinishReason | None:
        """Record ``token``, send its event, and say whether the sequence ends with it."""
        self.generated.append(token)
        if self.first_token_at is None:
            self.first_token_at = now
        reason: FinishReason | None = None
        if token in self.request.end_tokens:
            piece = ""
            reason = FinishReason.END_OF_TURN
        else:
            piece = self.stopper.push(self.detokenizer.push(token))
            if self.stopper.matched is None and self._is_full():
                reason = FinishReason.LENGTH
        if reason is not None:
            piece += self.stopper.push(self.detokenizer.flush()) + self.stopper.flush()
        if self.stopper.matched is not None:
            reason = FinishReason.STOP_STRING
        self.text.append(piece)
        if piece or reason is not FinishReason.END_OF_TURN:
            self.sink(TokenEvent(piece, token))
        return reason

    def _is_full(self) -> bool:
        return len(self.generated) >= self.request.sampling.max_new_tokens or self.length >= self.max_length

    def finished(self, reason: FinishReason, now: float) -> FinishedEvent:
        """The closing event of a sequence that ended well at ``now``."""
        started = self.arrived_at if self.started_at is None else self.started_at
        first = now if self.first_token_at is None else self.first_token_at
        return FinishedEvent(
            reason=reason,
            text="".join(self.text),
            prompt_tokens=len(self.request.prompt),
            generated_tokens=len(self.generated),
            queue_s=started - self.arrived_at,
            prefill_s=first - started,
            decode_s=now - first,
            first_token_s=first - self.arrived_at,
        )
