"""From an OWLv2 network to the folder that serves it (`bundle.py`). Offline only: loads torch and transformers."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import CLIPTokenizer, Owlv2Config

from services.detection.owlv2.bundle import (
    IMAGE,
    IMAGE_OUTPUTS,
    PIXELS,
    QUERY_EMBEDS,
    SHEET,
    TEXT,
    TOKENIZER,
    TOKENS,
    Sheet,
    digest,
)
from services.detection.owlv2.network import ImageHalf, TextHalf, load_network
from services.detection.owlv2.random_tokenizer import random_tokenizer
from serving.weights import WeightsUnavailableError


def write_bundle(source: str | Path | Owlv2Config, out: Path, *, opset: int, seed: int) -> Path:
    """As `services.detection.export.export_owlv2`, which says what the arguments are."""
    network = load_network(source, seed=seed)
    config: Any = network.config
    text, vision = config.text_config, config.vision_config
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        part = Path(scratch, "bundle")
        part.mkdir()
        tokenizer = _tokenizer(source, text.vocab_size)
        (part / TOKENIZER).write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
        pixels = torch.zeros(2, 3, vision.image_size, vision.image_size)
        _write(ImageHalf(network), pixels, part / IMAGE, PIXELS, IMAGE_OUTPUTS, opset)
        tokens = torch.zeros(2, text.max_position_embeddings, dtype=torch.int64)
        tokens[:, 0], tokens[:, 1] = tokenizer.bos_token_id, tokenizer.eos_token_id
        _write(TextHalf(network), tokens, part / TEXT, TOKENS, (QUERY_EMBEDS,), opset)
        sheet = Sheet(
            source="random weights" if isinstance(source, Owlv2Config) else str(source),
            input_size=vision.image_size,
            max_tokens=text.max_position_embeddings,
            begin_id=tokenizer.bos_token_id,
            end_id=tokenizer.eos_token_id,
            sha256={name: digest(part / name) for name in (IMAGE, TEXT, TOKENIZER)},
        )
        (part / SHEET).write_text(sheet.model_dump_json(indent=2), encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        os.replace(part, out)
    return out


def _tokenizer(source: str | Path | Owlv2Config, vocabulary: int) -> CLIPTokenizer:
    if isinstance(source, Owlv2Config):
        return random_tokenizer(vocabulary)
    try:
        loaded: CLIPTokenizer = CLIPTokenizer.from_pretrained(str(source))
        return loaded
    except (OSError, ValueError) as error:
        raise WeightsUnavailableError(str(source), f"its tokenizer cannot be loaded: {error}") from error


def _write(
    half: nn.Module, example: torch.Tensor, out: Path, name: str, outputs: tuple[str, ...], opset: int
) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of every size that it takes for fixed: sizes are meant to be, and the batch is tested.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            half,
            (example,),
            str(out),
            input_names=[name],
            output_names=list(outputs),
            dynamic_axes={axis: {0: "batch"} for axis in (name, *outputs)},
            opset_version=opset,
            dynamo=False,
        )
