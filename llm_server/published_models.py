"""CoLLaVO and MoAI, put together for serving from a checkpoint folder in the released layout."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch

from llm_server.adapter_registry import AdapterRegistry
from llm_server.cuda_recorder import CudaRecorder
from llm_server.embedder import Embedder
from llm_server.engine import Engine
from llm_server.intern_chat import InternChat
from llm_server.kv_cache import BlockPool
from llm_server.models.checkpoint import load, tensor_files
from llm_server.models.dimensions import RELEASED, Kind, ModelDimensions
from llm_server.models.precision import precision
from llm_server.models.profiles import ProfileName
from llm_server.models.vision_language import VisionLanguageModel
from llm_server.prompting import Prompting
from llm_server.prompts import internlm
from llm_server.prompts.intern_tokenizer import InternTokenizer
from llm_server.published_prompting import CollavoPrompting, MoaiPrompting
from llm_server.scheduler import Scheduler
from llm_server.served_model import ServedModel, WeightsRecord
from llm_server.serving_options import ServingOptions
from llm_server.vision_language_runner import VisionLanguageRunner
from serving.image import ImageLimits

#: Positions of a block of keys and values.
KV_BLOCK: Final = 16
_MEBIBYTE: Final = 2**20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with config.json, safetensors files and tokenizer.model; ``licence`` is an SPDX identifier."""

    folder: Path
    licence: str = "NOASSERTION"


def assemble_published(
    checkpoint: Checkpoint,
    options: ServingOptions,
    limits: ImageLimits,
    *,
    kind: Kind | None = None,
    profile: ProfileName = "serving",
    kept_mebibytes: int = 256,
    device: str | None = None,
    name: str | None = None,
    on_failure: Callable[[Exception], None] | None = None,
) -> ServedModel:
    """Load the model and make it ready; the engine is not started yet.

    Args:
        checkpoint: of either model, told apart by its tensors.
        options: as for any model; ``adapters_dir`` is not looked at, ``precision`` is one of
            :func:`llm_server.models.precision.precision`.
        limits: of pictures.
        kind: what the checkpoint must be.
        profile: whose habits it follows when a request does not say.
        kept_mebibytes: features of pictures and auxiliary tokens that are kept.
        device: for torch; a GPU if there is one by default.
        name: what requests call it; that of the released model, or of the folder, by default.
        on_failure: as for :class:`llm_server.engine.Engine`.

    Raises:
        CheckpointError: see :func:`llm_server.models.checkpoint.load`.
        OSError: the tokenizer cannot be read.
        ValueError: the tokenizer is another model's, the checkpoint not of ``kind``, or there is no such precision.
    """
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = load(checkpoint.folder, precision(options.precision), device=where, keep_unused=False)
    dimensions = model.dimensions
    if kind is not None and dimensions.kind != kind:
        raise ValueError(f"{checkpoint.folder} holds a {dimensions.kind}, not a {kind}")
    tokenizer = InternTokenizer(checkpoint.folder / "tokenizer.model")
    if tokenizer.image_id != dimensions.language.image_id:
        raise ValueError(
            f"the tokenizer has {tokenizer.image_id} pieces, the model {dimensions.language.image_id} tokens"
        )
    pool = BlockPool(-(-options.kv_tokens // KV_BLOCK), KV_BLOCK, reuse=options.prefix_reuse)
    runner = VisionLanguageRunner(
        model,
        blocks=pool.blocks,
        block_size=KV_BLOCK,
        context_length=options.context_length,
        kept_bytes=kept_mebibytes * _MEBIBYTE,
        recorder=CudaRecorder(where) if where.type == "cuda" else None,
        recorded_rows=options.max_sequences,
    )
    chat = InternChat(tokenizer, image_tokens=dimensions.vision.tokens)
    scheduler = Scheduler(
        max_running=options.max_sequences,
        max_waiting=options.max_queue,
        prefill_chunk=options.prefill_chunk,
        pool=pool,
    )
    registry = AdapterRegistry()
    engine = Engine(runner, chat.token_bytes, scheduler, registry=registry, on_failure=on_failure)
    known = next((known for known, released in RELEASED.items() if released == dimensions), None)
    return ServedModel(
        name=name or known or checkpoint.folder.name,
        base=known or checkpoint.folder.name,
        precision=options.precision,
        device=f"torch-{runner.device}",
        context_length=engine.context_length,
        answer_reserve=options.answer_reserve,
        default_max_new_tokens=options.default_max_new_tokens,
        chat=chat,
        prompting=_prompting(chat, dimensions, limits, profile),
        engine=engine,
        embedder=Embedder(engine, registry, runner),
        registry=registry,
        manager=None,
        base_weights=WeightsRecord(checkpoint.folder.name, _sha256(checkpoint.folder), checkpoint.licence),
        adapter_licence="NOASSERTION",
        computed_by=_computed_by(model, options.precision),
    )


def _prompting(
    chat: InternChat, dimensions: ModelDimensions, limits: ImageLimits, profile: ProfileName
) -> Prompting:
    if dimensions.kind == "collavo":
        return CollavoPrompting(chat, dimensions, limits, profile)
    return MoaiPrompting(chat, dimensions, limits, profile)


def _sha256(folder: Path) -> str:
    """Of the tensor files one after the other, in the order of their names, and of the tokenizer."""
    digest = hashlib.sha256()
    for path in [*sorted({file.path for file in tensor_files(folder).values()}), folder / "tokenizer.model"]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _computed_by(model: VisionLanguageModel, chosen: str) -> str:
    """What besides the weights could change an answer: precision, template, libraries that compute."""
    parts = [f"precision={chosen}", f"dtype={model.dtype}", f"template={internlm.prompt('?', 'eval')}"]
    parts += [
        f"{package}={version(package)}" for package in ("torch", "bitsandbytes", "sentencepiece", "pillow")
    ]
    return "\n".join(parts)
