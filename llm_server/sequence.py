"""One request on its way through the engine, and what comes out of it.

Plain data: no torch, no grpc, no asyncio. Times are seconds on a monotonic clock.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from llm_server.beam_search import BeamSearch
from llm_server.conditioning import Conditioning
from llm_server.constraint import CompiledConstraint, Constraint
from llm_server.detokenizer import Detokenizer
from llm_server.kv_cache import BlockTable
from llm_server.models.profiles import ProfileName
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
    """What is to be generated. ``prompt`` holds token ids, template included, and is not empty.

    ``adapters`` are public names. Of two requests the one with the higher ``priority`` runs first. ``logprobs`` asks
    for the log-probability of each token and of so many of the likeliest beside it. ``constraint`` is what the answer
    has to look like; it does not go with beams. ``conditioning`` is the picture's,
    whose positions hold placeholders in ``prompt``; ``profile`` and ``trim`` (of the text as a whole) are
    for the reply. ``shared``: so many of the first tokens another question in its place would have too; 0 if unknown.
    """

    prompt: tuple[int, ...]
    sampling: SamplingParams
    seed: int
    end_tokens: frozenset[int]
    adapters: AdapterScales = ()
    stop: tuple[str, ...] = ()
    deadline: float | None = None
    priority: int = 0
    logprobs: int | None = None
    constraint: CompiledConstraint | None = None
    conditioning: Conditioning | None = None
    profile: ProfileName | None = None
    trim: Callable[[str], str] = str.strip
    shared: int = 0

    @property
    def text(self) -> tuple[int, ...]:
        """The prompt without its image positions."""
        seen = self.conditioning
        return (
            self.prompt if seen is None else self.prompt[: seen.image_start] + self.prompt[seen.image_end :]
        )


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of the model's own probabilities (before any filter): the token's, and the likeliest ids'."""

    chosen: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A token was chosen. ``text`` is what it completed; all texts joined are the text of the answer."""

    text: str
    token: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class FinishedEvent:
    """The sequence ended well; nothing follows. Durations in seconds.

    ``cached_tokens`` of the prompt were found in the key-value cache; ``preemptions`` counts how often the sequence
    lost its place and was read again.
    """

    reason: FinishReason
    text: str
    prompt_tokens: int
    generated_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    first_token_s: float
    cached_tokens: int = 0
    preemptions: int = 0


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
class Branch:
    """One continuation of the prompt: a sequence has one, or as many as it has beams."""

    table: BlockTable
    generated: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Sequence:
    """A request with all that changes while it is served, by the engine's thread alone but for ``cancelled``.

    ``adapters`` are the request's, by the keys of the runner. ``generated`` is what has been said to the caller; beams
    say nothing before they are done. A sequence that waits has no branch.
    """

    number: int
    request: GenerationRequest
    max_length: int
    sampler: Sampler
    detokenizer: Detokenizer
    stopper: StopMatcher
    sink: Sink
    arrived_at: float
    adapters: AdapterScales = ()
    state: State = State.WAITING
    cancelled: bool = False
    generated: list[int] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    beams: BeamSearch | None = None
    constraint: Constraint | None = None
    text: list[str] = field(default_factory=list)
    cached_tokens: int | None = None
    preemptions: int = 0
    started_at: float | None = None
    first_token_at: float | None = None

    @property
    def width(self) -> int:
        """Rows of a batch that it takes when it writes."""
        return self.request.sampling.beams

    @property
    def root(self) -> bytes | None:
        """What the keys and values of its tokens depend on besides the tokens; None if no other prompt shares them."""
        seen = self.request.conditioning
        if seen is None:
            return repr(self.adapters).encode()
        return None if seen.whole else repr(self.adapters).encode() + seen.digest

    @property
    def undivided(self) -> int:
        """How many tokens have to be read in one pass: the prompt, if it cannot be read in parts."""
        seen = self.request.conditioning
        return len(self.request.prompt) if seen is not None and seen.whole else 0

    @property
    def order(self) -> tuple[int, int]:
        """Who sorts first is served first."""
        return -self.request.priority, self.number

    def written(self, branch: Branch) -> list[int]:
        """Prompt and what ``branch`` continues it with."""
        return [*self.request.prompt, *branch.generated]

    def length(self, branch: Branch) -> int:
        """How many tokens :meth:`written` has."""
        return len(self.request.prompt) + len(branch.generated)

    def resumed(self) -> list[int]:
        """What must be read before the next token: after a preemption more than the prompt (beams begin anew)."""
        return [*self.request.prompt, *self.generated]

    def begin(self, table: BlockTable) -> None:
        """A table for :meth:`resumed` was found; reading begins, or begins again."""
        self.branches = [Branch(table, [*self.generated])]
        self.state = State.PREFILLING
        if self.width > 1:
            self.beams = BeamSearch(self.width, self.request.end_tokens, self.most_new_tokens)

    def accept(self, token: int, now: float, logprobs: TokenLogprobs | None = None) -> FinishReason | None:
        """Record ``token``, send its event, and say whether the sequence ends with it.

        With a constraint it may raise :class:`llm_server.faults.ConstraintFault`, and ends where nothing can follow.
        """
        self.generated.append(token)
        if self.beams is None:
            self.branches[0].generated.append(token)
        if self.first_token_at is None:
            self.first_token_at = now
        reason: FinishReason | None = None
        if token in self.request.end_tokens:
            piece = ""
            reason = FinishReason.END_OF_TURN
        else:
            piece = self.stopper.push(self.detokenizer.push(token))
            if self.constraint is not None and self.constraint.advance(token):
                reason = FinishReason.END_OF_TURN
            elif self.stopper.matched is None and self._is_full():
                reason = FinishReason.LENGTH
        if reason is not None:
            piece += self.stopper.push(self.detokenizer.flush()) + self.stopper.flush()
        if self.stopper.matched is not None:
            reason = FinishReason.STOP_STRING
        self.text.append(piece)
        if piece or reason is not FinishReason.END_OF_TURN:
            self.sink(TokenEvent(piece, token, logprobs))
        return reason

    @property
    def most_new_tokens(self) -> int:
        """How long the answer may become."""
        return min(self.request.sampling.max_new_tokens, self.max_length - len(self.request.prompt))

    def _is_full(self) -> bool:
        return len(self.generated) >= self.most_new_tokens

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
            cached_tokens=self.cached_tokens or 0,
            preemptions=self.preemptions,
        )
