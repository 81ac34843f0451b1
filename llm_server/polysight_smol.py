"""`polysight-smol`: SmolLM2-135M-Instruct with the adapters `object` and `vl`, put together for serving."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from llm_server.adapter_files import read_adapters
from llm_server.adapter_manager import AdapterManager
from llm_server.adapter_registry import registry_of
from llm_server.adapter_set import AdapterSet
from llm_server.base_checkpoint import NAME as BASE
from llm_server.chat_prompting import ChatPrompting, CrayonPlace
from llm_server.crayon_layers import CrayonLayers
from llm_server.embedder import Embedder
from llm_server.engine import Engine
from llm_server.kv_cache import BlockPool
from llm_server.model_runner import TorchRunner
from llm_server.models import crayon_files
from llm_server.models.crayon import CrayonSwitches
from llm_server.prompts import chatml
from llm_server.scheduler import Scheduler
from llm_server.served_model import ServedModel, WeightsRecord
from llm_server.serving_options import ServingOptions
from llm_server.tokenizer import ChatTokenizer, PretrainedTokenizer
from llm_server.training.image_packing import PLACEHOLDER, image_place

__all__ = ["ADAPTER_LICENCE", "KV_BLOCK", "NAME", "ServingOptions", "assemble"]

NAME = "polysight-smol"
ADAPTER_LICENCE = "Apache-2.0"

#: Positions of a block of keys and values: fewer find more prefixes, more cost less to look up.
KV_BLOCK = 16


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

    A crayon prompt in the folder ``crayon`` beside them takes part in requests that bring maps.

    Raises :class:`llm_server.adapter_files.AdapterRefused`, ValueError for a tokenizer that is not ChatML's, and
    CrayonRefused or CrayonMismatch for a crayon prompt that does not fit.
    """
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    files = read_adapters(options.adapters_dir, base=base)
    registry = registry_of(files)
    adapters = AdapterSet(model)
    for one in registry.all():
        adapters.add(one.key, adapters.read(one.files))
    crayon = _crayon(options.adapters_dir / crayon_files.FOLDER, base, model)
    pool = BlockPool(-(-options.kv_tokens // KV_BLOCK), KV_BLOCK, reuse=options.prefix_reuse)
    crayon_weights = None
    if crayon is not None:
        sha256 = crayon_files.sha256(options.adapters_dir / crayon_files.FOLDER)
        crayon_weights = WeightsRecord(crayon_files.FOLDER, sha256, ADAPTER_LICENCE)
    runner = TorchRunner(
        adapters,
        blocks=pool.blocks,
        block_size=KV_BLOCK,
        context_length=options.context_length,
        crayon=crayon,
    )
    chat = ChatTokenizer(tokenizer)
    if len(chat.token_bytes) > runner.vocabulary_size:
        raise ValueError(
            f"the tokenizer knows {len(chat.token_bytes)} tokens, the model {runner.vocabulary_size}"
        )
    # Rows of the output head beyond the tokenizer's vocabulary are padding: tokens without text.
    token_bytes = chat.token_bytes + (b"",) * (runner.vocabulary_size - len(chat.token_bytes))
    scheduler = Scheduler(
        max_running=options.max_sequences,
        max_waiting=options.max_queue,
        prefill_chunk=options.prefill_chunk,
        pool=pool,
    )
    engine = Engine(runner, token_bytes, scheduler, registry=registry, on_failure=on_failure)
    return ServedModel(
        name=NAME,
        base=base,
        precision=options.precision,
        device=f"torch-{runner.device}",
        context_length=engine.context_length,
        answer_reserve=options.answer_reserve,
        default_max_new_tokens=options.default_max_new_tokens,
        chat=chat,
        prompting=ChatPrompting(chat, None if crayon is None else _place(crayon, tokenizer)),
        engine=engine,
        embedder=Embedder(engine, registry, runner),
        registry=registry,
        manager=AdapterManager(
            engine, registry, adapters, base=base, store=options.adapter_store or options.adapters_dir
        ),
        base_weights=base_weights,
        adapter_licence=ADAPTER_LICENCE,
        crayon_weights=crayon_weights,
        computed_by=_computed_by(options.precision, crayon),
    )


def _crayon(folder: Path, base: str, model: Any) -> CrayonLayers | None:
    """The crayon prompt of ``folder``, if there is one. Raises CrayonRefused and CrayonMismatch."""
    if not (folder / crayon_files.CONFIG).exists():
        return None
    return CrayonLayers(crayon_files.load_crayon(folder, base=base), model)


def _place(crayon: CrayonLayers, tokenizer: Any) -> CrayonPlace:
    shape, trained = crayon.crayon.shape, crayon.crayon.trained(CrayonSwitches())
    return CrayonPlace(shape.rows, shape.columns, image_place(tokenizer), PLACEHOLDER, trained.numbering)


def _computed_by(precision: str, crayon: CrayonLayers | None) -> str:
    """What besides the weights could change an answer: precision, template, libraries that compute."""
    parts = [] if crayon is None else [f"crayon_queries={crayon.crayon.queries}"]
    parts += [f"precision={precision}", f"template={chatml.render([chatml.Turn('user', '?')])}"]
    parts += [f"{package}={version(package)}" for package in ("torch", "transformers", "bitsandbytes")]
    return "\n".join(parts)
