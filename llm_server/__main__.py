"""The language model server: `python -m llm_server`. Settings: `LLM_SERVER_...` (see :mod:`llm_server.settings`)."""

from __future__ import annotations

import os

# Before any numeric library is loaded: threads that spin while they wait starve the other processes of the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Weights come from the verified store; nothing is looked up or fetched behind its back.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from llm_server.adapter_service import AdapterService
from llm_server.served_model import ServedModel, WeightsRecord
from llm_server.service import GenerationService
from llm_server.serving_options import ServingOptions
from llm_server.settings import LlmServerSettings
from serving.server import run, serve
from serving.settings import load_settings
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore

SERVICE = "llm_server"

log = structlog.get_logger(__name__)


def load(settings: LlmServerSettings) -> ServedModel:
    """Load the model. Blocks; imports torch, so that the process listens before that."""

    def end_process(error: Exception) -> None:
        log.critical("the engine broke; ending the process", error=repr(error), exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)

    if settings.checkpoint is None or settings.model == "polysight-smol":
        return _load_vllm(settings) if settings.backend == "vllm" else _load_default(settings, end_process)
    from llm_server.published_models import Checkpoint, assemble_published

    return assemble_published(
        Checkpoint(settings.checkpoint, settings.checkpoint_licence),
        _options(settings, settings.checkpoint_precision),
        settings.image_limits,
        kind=settings.model,
        profile=settings.profile,
        kept_mebibytes=settings.feature_cache_mebibytes,
        device=settings.device,
        on_failure=end_process,
    )


def _load_default(settings: LlmServerSettings, on_failure: Callable[[Exception], None]) -> ServedModel:
    """The base and its adapters."""
    from llm_server import base_model
    from llm_server.polysight_smol import assemble

    folder, weights = _base(settings)
    return assemble(
        base_model.load_model(folder, settings.precision),
        base_model.load_tokenizer(folder),
        weights,
        _options(settings, settings.precision),
        on_failure=on_failure,
    )


def _load_vllm(settings: LlmServerSettings) -> ServedModel:
    """The base and its adapters, in vLLM. Raises VllmMissingError before weights are looked for."""
    from llm_server.vllm_api import load_api

    api = load_api()
    from llm_server import base_checkpoint, base_model
    from llm_server.polysight_smol import ADAPTER_LICENCE, NAME
    from llm_server.vllm_model import assemble_vllm

    folder, weights = _base(settings)
    return assemble_vllm(
        api,
        folder,
        base_model.load_tokenizer(folder),
        weights,
        _options(settings, settings.precision),
        name=NAME,
        base=base_checkpoint.NAME,
        adapter_licence=ADAPTER_LICENCE,
    )


def _base(settings: LlmServerSettings) -> tuple[Path, WeightsRecord]:
    """The base's checkpoint in the precision asked for."""
    from llm_server import base_checkpoint

    store = WeightStore()
    base = store.licence(base_checkpoint.ARTIFACT)
    folder = base_checkpoint.served_checkpoint(store, settings.precision)
    return folder, WeightsRecord(base.name, base.sha256, base.licence)


def _options(settings: LlmServerSettings, precision: str) -> ServingOptions:
    return ServingOptions(
        precision=precision,
        adapters_dir=settings.adapters_dir,
        threads=settings.threads,
        max_sequences=settings.max_sequences,
        max_queue=settings.max_queue,
        prefill_chunk=settings.prefill_chunk,
        context_length=settings.context_length,
        answer_reserve=settings.answer_reserve,
        default_max_new_tokens=settings.default_max_new_tokens,
        kv_tokens=settings.kv_tokens,
        prefix_reuse=settings.prefix_reuse,
        adapter_store=settings.adapter_store,
    )


def main() -> None:
    """Wire the process and run it until it is told to stop."""
    settings = load_settings(LlmServerSettings)
    metrics = Metrics(SERVICE)
    service = GenerationService(lambda: load(settings), metrics, limits=settings.image_limits)
    admin = [AdapterService(lambda: service.model).servicer()] if settings.admin else []
    run(
        serve(
            service=SERVICE,
            settings=settings,
            servicers=[service.servicer(), *admin],
            metrics=metrics,
            warm_up=service.warm_up,
            close=service.close,
        )
    )


if __name__ == "__main__":
    main()
