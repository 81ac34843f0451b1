"""How a model is served, whichever it is; see :class:`llm_server.settings.LlmServerSettings` for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """Plain values: nothing here knows torch or the environment."""

    precision: str
    adapters_dir: Path
    threads: int
    max_sequences: int
    max_queue: int
    prefill_chunk: int
    context_length: int | None
    answer_reserve: int
    default_max_new_tokens: int
    kv_tokens: int = 16384
    prefix_reuse: bool = True
    adapter_store: Path | None = None
