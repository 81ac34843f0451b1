"""A model that is loaded and can be asked: what the service needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass

from llm_server.adapter_files import AdapterFiles, default_scales
from llm_server.engine import Engine
from llm_server.sequence import AdapterScales
from llm_server.tokenizer import ChatTokenizer


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
    prompt.
    """

    name: str
    version: str
    base: str
    precision: str
    device: str
    context_length: int
    answer_reserve: int
    default_max_new_tokens: int
    chat: ChatTokenizer
    engine: Engine
    adapters: tuple[AdapterFiles, ...]
    weights: tuple[WeightsRecord, ...]

    @property
    def prompt_limit(self) -> int:
        """The most tokens a prompt may have."""
        return max(1, self.context_length - self.answer_reserve)

    @property
    def default_adapters(self) -> AdapterScales:
        """What a request gets that names no adapters."""
        return default_scales(self.adapters)
