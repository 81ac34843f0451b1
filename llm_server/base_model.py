"""The base language model in memory: a checkpoint folder of :mod:`llm_server.base_checkpoint`, loaded as

- ``nf4``: bitsandbytes 4-bit NormalFloat with double quantisation, computing in bfloat16;
- ``nf4-dequantised``: the very values of ``nf4`` as plain bfloat16 layers: what adapters are trained on, and what is
  served on a CPU, where unpacking at every step takes as long as the step;
- ``bf16`` and ``fp32``: not quantised.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from llm_server.base_checkpoint import NAME, Precision

#: The linear layers of a decoder layer: what is quantised, and what adapters sit on.
LINEARS: Final[tuple[str, ...]] = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)


def without_bars() -> None:
    """Keep transformers from drawing bars: standard error is for log lines, or the bars of the command."""
    silence: Any = transformers_logging.disable_progress_bar  # untyped
    silence()


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a checkpoint folder."""
    return AutoTokenizer.from_pretrained(folder)


def load_model(folder: Path, precision: Precision = "nf4", *, attention: str = "sdpa") -> Any:
    """The base in evaluation mode on the CPU, frozen.

    Args:
        folder: of :mod:`llm_server.base_checkpoint`. One that is quantised already can only be loaded as what it is,
            and ``nf4`` as ``nf4-dequantised``; ValueError otherwise.
        precision: see the module.
        attention: name of an attention implementation that transformers knows.
    """
    without_bars()
    arguments: dict[str, Any] = {"attn_implementation": attention}
    stored = _stored_precision(folder)
    if stored is not None and precision != stored and (stored, precision) != ("nf4", "nf4-dequantised"):
        raise ValueError(f"{folder} holds the base as {stored}, which cannot be loaded as {precision}")
    four_bit = precision == "nf4" or (precision == "nf4-dequantised" and stored != "nf4-dequantised")
    if four_bit and stored is None:
        quantisation: Any = BitsAndBytesConfig  # untyped
        arguments["quantization_config"] = quantisation(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    if four_bit:
        arguments["device_map"] = {"": "cpu"}
    arguments["dtype"] = torch.float32 if precision == "fp32" else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_pretrained(folder, **arguments)
    if precision == "nf4":
        no_weight_packing(model)
    if four_bit and precision == "nf4-dequantised":
        model = dequantised(model)
    model.config._name_or_path = NAME
    model.name_or_path = NAME
    return model.requires_grad_(False).eval()


def no_weight_packing(model: nn.Module) -> int:
    """Turns off the AVX512-BF16 weight packing of bitsandbytes on every 4-bit layer; returns how many there are.

    After one evaluation forward that path silently stops gradients, and it corrupts weights on merging.
    """
    layers = _four_bit(model)
    for _, layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def dequantised(model: Any) -> Any:
    """Replaces every 4-bit layer by a plain bfloat16 layer of the same values; the model is no longer quantised."""
    from bitsandbytes.functional import dequantize_4bit

    for name, layer in _four_bit(model):
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(torch.bfloat16)
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, dtype=torch.bfloat16)
        plain.weight = nn.Parameter(
            weight.reshape(layer.out_features, layer.in_features), requires_grad=False
        )
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    for attribute in ("quantization_method", "is_quantized", "is_loaded_in_4bit", "hf_quantizer"):
        if hasattr(model, attribute):
            setattr(model, attribute, None if attribute in ("quantization_method", "hf_quantizer") else False)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


#: The key of a stored config.json that says that NF4 values are stored unpacked.
STORED_PRECISION: Final = "stored_precision"


def _stored_precision(folder: Path) -> str | None:
    """ "nf4" or "nf4-dequantised" if the folder holds that, None if it holds the base unquantised."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return "nf4" if "quantization_config" in config else config.get(STORED_PRECISION)


def _four_bit(model: nn.Module) -> list[tuple[str, Any]]:
    """Names and modules of all 4-bit layers."""
    from bitsandbytes.nn.modules import Linear4bit

    return [(name, module) for name, module in model.named_modules() if isinstance(module, Linear4bit)]
