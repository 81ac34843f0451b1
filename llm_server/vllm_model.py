"""The embedded default with vLLM computing: everything but the engine is as in :mod:`llm_server.polysight_smol`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llm_server.adapter_files import read_adapters
from llm_server.adapter_registry import registry_of
from llm_server.chat_prompting import ChatPrompting
from llm_server.prompts import chatml
from llm_server.runner import Vector
from llm_server.sequence import AdapterScales
from llm_server.served_model import ServedModel, WeightsRecord
from llm_server.serving_options import ServingOptions
from llm_server.tokenizer import ChatTokenizer, PretrainedTokenizer
from llm_server.vllm_api import VllmApi, engine_arguments
from llm_server.vllm_backend import VllmEngine, VllmOptions
from serving.errors import UnsupportedOptionError


@dataclass(frozen=True, slots=True)
class NoEmbedder:
    """vLLM is run for answers alone."""

    limit: int

    def submit(self, tokens: Sequence[int], adapters: AdapterScales) -> Future[Vector]:
        """Raises UnsupportedOptionError."""
        raise UnsupportedOptionError(
            f"the vllm backend embeds nothing: not {len(tokens)} tokens with {len(adapters)} adapters",
            metadata={"option": "embed"},
        )


def assemble_vllm(
    api: VllmApi,
    folder: Path,
    tokenizer: PretrainedTokenizer,
    base_weights: WeightsRecord,
    options: ServingOptions,
    *,
    name: str,
    base: str,
    adapter_licence: str,
) -> ServedModel:
    """Serve the transformers checkpoint in ``folder``; vLLM is started when the engine is.

    A crayon prompt among the adapters is left aside. Adapters are those of ``options.adapters_dir``, for good: none can
    be loaded later. Raises :class:`llm_server.adapter_files.AdapterRefused`, and ValueError for a tokenizer that is not
    ChatML's, or a config without sizes.
    """
    files = read_adapters(options.adapters_dir, base=base)
    registry = registry_of(files)
    chat = ChatTokenizer(tokenizer)
    rows, positions = _sizes(folder)
    context = min(positions, options.context_length or positions)
    engine = VllmEngine(
        api,
        # Rows of the output head beyond the tokenizer's vocabulary are padding: tokens without text.
        chat.token_bytes + (b"",) * (rows - len(chat.token_bytes)),
        VllmOptions(
            arguments=engine_arguments(
                folder,
                context_length=context,
                max_sequences=options.max_sequences,
                max_rank=sum(one.rank for one in files),
            ),
            context_length=context,
            max_sequences=options.max_sequences,
            max_queue=options.max_queue,
        ),
        registry=registry,
    )
    return ServedModel(
        name=name,
        base=base,
        precision=options.precision,
        device="vllm",
        context_length=context,
        answer_reserve=options.answer_reserve,
        default_max_new_tokens=options.default_max_new_tokens,
        chat=chat,
        prompting=ChatPrompting(chat),
        engine=engine,
        embedder=NoEmbedder(context),
        registry=registry,
        manager=None,
        base_weights=base_weights,
        adapter_licence=adapter_licence,
        computed_by=_computed_by(options.precision),
    )


def _sizes(folder: Path) -> tuple[int, int]:
    """Rows of the output head, and positions. Raises ValueError."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    sizes = config.get("vocab_size"), config.get("max_position_embeddings")
    if not all(isinstance(one, int) for one in sizes):
        raise ValueError(f"{folder / 'config.json'} lacks vocab_size or max_position_embeddings")
    return sizes


def _computed_by(precision: str) -> str:
    """What besides the weights could change an answer."""
    try:
        vllm = version("vllm")
    except PackageNotFoundError:
        vllm = "built in place"
    template = chatml.render([chatml.Turn("user", "?")])
    return "\n".join([f"precision={precision}", f"template={template}", f"vllm={vllm}"])
