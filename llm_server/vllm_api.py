"""The part of vLLM's interface that is used, and where it comes from: nothing of vLLM is imported with this module.

Names and meanings follow vLLM 0.10 and later: ``vllm.v1.engine.async_llm.AsyncLLM`` (``generate``, ``abort``,
``shutdown``), ``vllm.SamplingParams``, ``vllm.sampling_params.RequestOutputKind``, ``vllm.lora.request.LoRARequest``,
``vllm.outputs.RequestOutput`` and ``CompletionOutput``, ``vllm.AsyncEngineArgs``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class VllmMissingError(RuntimeError):
    """The backend was asked for on a machine without it."""


class Logprob(Protocol):
    """One token's log-probability."""

    logprob: float


class Completion(Protocol):
    """New tokens of an answer."""

    @property
    def token_ids(self) -> Sequence[int]:
        """With ``output_kind`` DELTA: those that are new."""

    @property
    def logprobs(self) -> Sequence[Mapping[int, Logprob]] | None:
        """For each of them, if asked for: its own and the likeliest tokens', by id."""

    @property
    def finish_reason(self) -> str | None:
        """None while it goes on, then "stop", "length" or "abort"."""


class RequestOutput(Protocol):
    """What ``generate`` yields."""

    @property
    def outputs(self) -> Sequence[Completion]:
        """One for each answer that was asked for."""

    @property
    def num_cached_tokens(self) -> int | None:
        """Tokens of the prompt that were found in the prefix cache."""


class AsyncEngine(Protocol):
    """vLLM's engine; every call from the loop in which it was made."""

    def generate(
        self,
        prompt: Any,
        sampling_params: Any,
        request_id: str,
        *,
        lora_request: Any | None = None,
        priority: int = 0,
    ) -> AsyncIterator[RequestOutput]:
        """Generate; ``prompt`` is ``{"prompt_token_ids": [...]}``. A lower ``priority`` comes first."""

    async def abort(self, request_id: str) -> None:
        """Give up a request; nothing if it is unknown."""

    def shutdown(self) -> None:
        """End the processes behind it."""


@dataclass(frozen=True, slots=True)
class VllmApi:
    """What is taken from the package. ``make_engine`` takes AsyncEngineArgs' keyword arguments."""

    make_engine: Callable[[Mapping[str, Any]], AsyncEngine]
    sampling_params: Callable[..., Any]
    lora_request: Callable[[str, int, str], Any]
    delta: Any


def vllm_installed() -> bool:
    """Whether the package is there; it is not imported."""
    return importlib.util.find_spec("vllm") is not None


def load_api() -> VllmApi:
    """Import vLLM. Raises :class:`VllmMissingError`."""
    if not vllm_installed():
        raise VllmMissingError(
            "the vllm backend was asked for, but the package vllm is not installed; install it beside this one on a"
            " machine with a GPU that it supports, or choose the torch backend"
        )
    package: Any = importlib.import_module("vllm")
    engine: Any = importlib.import_module("vllm.v1.engine.async_llm")
    sampling: Any = importlib.import_module("vllm.sampling_params")
    lora: Any = importlib.import_module("vllm.lora.request")
    return VllmApi(
        make_engine=lambda arguments: engine.AsyncLLM.from_engine_args(package.AsyncEngineArgs(**arguments)),
        sampling_params=sampling.SamplingParams,
        lora_request=lora.LoRARequest,
        delta=sampling.RequestOutputKind.DELTA,
    )


def engine_arguments(
    model: Path, *, context_length: int, max_sequences: int, max_rank: int
) -> dict[str, Any]:
    """For the engine of one model. ``max_rank`` is of an adapter set in all; vLLM allows powers of two from 8 on."""
    allowed = 8
    while allowed < max_rank:
        allowed *= 2
    return {
        "model": str(model),
        "max_model_len": context_length,
        "max_num_seqs": max_sequences,
        "enable_lora": True,
        "max_lora_rank": allowed,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
    }
