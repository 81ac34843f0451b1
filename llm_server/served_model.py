"""A model that is loaded and can be asked: what the service needs to know of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from llm_server.adapter_manager import AdapterManager
from llm_server.adapter_registry import AdapterRegistry
from llm_server.constraint_grammar import ConstraintCompiler
from llm_server.engine_report import StepReport, Usage
from llm_server.prompting import Chat, Prompting
from llm_server.runner import Vector
from llm_server.sequence import AdapterScales, GenerationRequest, Sink
from llm_server.sequence import Sequence as Generation


class ServingEngine(Protocol):
    """What answers requests; see :class:`llm_server.engine.Engine` for each."""

    def start(self) -> None:
        """Once."""

    def watch(self, on_step: Callable[[StepReport], None]) -> None:
        """Be told of each step."""

    def check_room(self) -> None:
        """Raises what :meth:`submit` would, as far as it does not depend on the request."""

    def submit(self, request: GenerationRequest, sink: Sink) -> Generation:
        """Queue a request."""

    def cancel(self, sequence: Generation) -> None:
        """Nobody waits for it any more."""

    def close(self) -> None:
        """Take no more work, fail what is left."""

    @property
    def slots(self) -> int:
        """The most sequences that run at a time."""

    @property
    def load(self) -> tuple[int, int]:
        """How many run and how many wait."""

    @property
    def usage(self) -> Usage:
        """Counts of what is in use."""


class TextEmbedder(Protocol):
    """Texts as vectors; see :class:`llm_server.embedder.Embedder`."""

    @property
    def limit(self) -> int:
        """The most tokens of a text."""

    def submit(self, tokens: Sequence[int], adapters: AdapterScales) -> Future[Vector]:
        """Embed a text."""


@dataclass(frozen=True, slots=True)
class WeightsRecord:
    """A weights file: its name in the manifest, SHA-256 in hexadecimal, SPDX licence."""

    artifact: str
    sha256: str
    licence: str


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model with its engine and adapters.

    ``precision`` is as in :mod:`llm_server.base_model`; ``device`` what runs it, such as "torch-cpu";
    ``context_length`` counts positions of prompt and answer together, ``answer_reserve`` of them are kept from the
    prompt; ``manager`` is None for a model that takes no adapters; ``computed_by`` says what besides the weights could
    change an answer.
    """

    name: str
    base: str
    precision: str
    device: str
    context_length: int
    answer_reserve: int
    default_max_new_tokens: int
    chat: Chat
    prompting: Prompting
    engine: ServingEngine
    embedder: TextEmbedder
    registry: AdapterRegistry
    manager: AdapterManager | None
    base_weights: WeightsRecord
    adapter_licence: str
    computed_by: str
    crayon_weights: WeightsRecord | None = None
    constraints: ConstraintCompiler = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        chat = self.chat
        compiler = ConstraintCompiler(chat.token_bytes, chat.end_tokens, chat.encode_text)
        object.__setattr__(self, "constraints", compiler)

    @property
    def version(self) -> str:
        """Changes with anything that could change an answer: the weights there are now, and what computes."""
        parts = [f"{one.artifact}={one.sha256}" for one in self.weights]
        return hashlib.sha256("\n".join([*parts, self.computed_by]).encode()).hexdigest()[:12]

    @property
    def weights(self) -> tuple[WeightsRecord, ...]:
        """Base, crayon prompt and adapters."""
        adapters = (one.files for one in self.registry.all())
        return (
            self.base_weights,
            *(() if self.crayon_weights is None else (self.crayon_weights,)),
            *(WeightsRecord(one.name, one.sha256, self.adapter_licence) for one in adapters),
        )

    @property
    def prompt_limit(self) -> int:
        """The most tokens a prompt may have."""
        return max(1, self.context_length - self.answer_reserve)

    @property
    def default_adapters(self) -> AdapterScales:
        """What a request gets that names no adapters."""
        return self.registry.default_scales
