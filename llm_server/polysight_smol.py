"""`polysight-smol`: SmolLM2-135M-Instruct with the adapters `object` and `vl`, put together for serving."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from llm_server.adapter_files import read_adapters
from llm_server.adapter_set import AdapterSet
from llm_server.base_checkpoint import NAME as BASE
from llm_server.engine import Engine
from llm_server.model_runner import TorchRunner
from llm_server.prompts import chatml
from llm_server.scheduler import Scheduler
from llm_server.served_model import ServedModel, WeightsRecord
from llm_server.tokenizer import ChatTokenizer, PretrainedTokenizer

NAME = "polysight-smol"
ADAPTER_LICENCE = "Apache-2.0"


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """How the model is served; see :class:`llm_server.settings.LlmServerSettings` for each."""

    precision: str
    adapters_dir: Path
    threads: int
    max_sequences: int
    max_queue: int
    prefill_chunk: int
    context_length: int | None
    answer_reserve: int
    default_max_new_tokens: int


def assemble(
    model: Any,
    tokenizer: PretrainedTokenizer,
    base_weights: WeightsRecord,
    options: ServingOptions,
    *,
    base: str = BASE,
    on_failure: Callable[[Exception], None] | None = None,
) -> ServedModel:
    """Serve ``model`` with the adapters in ``options.adapters_dir``; the engine is not started yet.

    Raises :class:`llm_server.adapter_files.AdapterRefused`, and ValueError for a tokenizer that is not ChatML's.
    """
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    adapters = tuple(read_adapters(options.adapters_dir, base=base))
    runner = TorchRunner(AdapterSet(model, adapters), context_length=options.context_length)
    chat = ChatTokenizer(tokenizer)
    if len(chat.token_bytes) > runner.vocabulary_size:
        raise ValueError(
            f"the tokenizer knows {len(chat.token_bytes)} tokens, the model {runner.vocabulary_size}"
        )
    # Rows of the output head beyond the tokenizer's vocabulary are padding: tokens without text.
    token_bytes = chat.token_bytes + (b"",) * (runner.vocabulary_size - len(chat.token_bytes))
    scheduler = Scheduler(
        max_running=options.max_sequences, max_waiting=options.max_queue, prefill_chunk=options.prefill_chunk
    )
    weights = (
        base_weights,
        *(WeightsRecord(adapter.name, adapter.sha256, ADAPTER_LICENCE) for adapter in adapters),
    )
    return ServedModel(
        name=NAME,
        version=_version(weights, options.precision),
        base=base,
        precision=options.precision,
        device=f"torch-{runner.device}",
        context_length=runner.context_length,
        answer_reserve=options.answer_reserve,
        default_max_new_tokens=options.default_max_new_tokens,
        chat=chat,
        engine=Engine(runner, token_bytes, scheduler, on_failure=on_failure),
        adapters=adapters,
        weights=weights,
    )


def _version(weights: tuple[WeightsRecord, ...], precision: str) -> str:
    """Changes with anything that could change an answer: weights, precision, template, libraries that compute."""
    parts = [f"{one.artifact}={one.sha256}" for one in weights]
    parts += [f"precision={precision}", f"template={chatml.render([chatml.Turn('user', '?')])}"]
    parts += [
        f"{package}={version(package)}" for package in ("torch", "transformers", "peft", "bitsandbytes")
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
