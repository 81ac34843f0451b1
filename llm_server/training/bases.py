"""The frozen base that dual training stands on, loaded as its settings say: random, on a CPU, or in 4 bits on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llm_server import base_model
from llm_server.training.dual_settings import BaseSettings
from llm_server.training.packed_attention import register


@dataclass(frozen=True)
class Base:
    """A frozen causal language model, its tokenizer, and the token that fills up sequences."""

    model: Any
    tokenizer: Any
    pad_id: int


def tiny_base(seed: int) -> Base:
    """The random model of two layers."""
    from llm_server.tiny_model import tiny_model, tiny_tokenizer

    tokenizer: Any = tiny_tokenizer()
    model: Any = tiny_model(len(tokenizer), seed=seed).requires_grad_(False)
    model.set_attn_implementation(register())
    return Base(model, tokenizer, tokenizer.eos_token_id)


def load_base(settings: BaseSettings, folder: Path) -> Base:
    """The checkpoint in ``folder``, any Llama-like causal language model of transformers with a fast tokenizer.

    On CUDA: NF4 with double quantisation, or bfloat16, computing in bfloat16. Written for it; not run there.
    """
    tokenizer = base_model.load_tokenizer(folder)
    if settings.device == "cpu":
        model = base_model.load_model(folder, settings.precision, attention=register())
    else:
        model = _on_gpu(settings, folder)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Base(model, tokenizer, int(pad))


def _on_gpu(settings: BaseSettings, folder: Path) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    arguments: dict[str, Any] = {}
    if settings.precision == "nf4":
        quantisation: Any = BitsAndBytesConfig  # untyped
        arguments["quantization_config"] = quantisation(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, device_map={"": 0}, attn_implementation="sdpa", **arguments
    )
    return model.requires_grad_(False)
