"""The base language model: GGUF -> safetensors once, then loaded in the precision that is asked for.

The checkpoint ships as GGUF (Q4_1 blocks) inside a registry package. It is dequantised once to float32 safetensors,
kept in the weight store, and from there loaded as:

- ``nf4``: bitsandbytes 4-bit NormalFloat with double quantisation, computing in bfloat16: what is served.
  Quantising takes seconds of every start, so the quantised checkpoint is kept as well;
- ``nf4-dequantised``: the very values of ``nf4`` as plain bfloat16 layers: what adapters are trained on;
- ``bf16`` and ``fp32``: not quantised.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GgufConfig

ARTIFACT: Final = "smollm2-135m-instruct-gguf"
NAME: Final = "SmolLM2-135M-Instruct"
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

Precision = Literal["nf4", "nf4-dequantised", "bf16", "fp32"]


class Store(Protocol):
    """What is used of :class:`serving.weights.WeightStore`."""

    def fetch(self, artifact: str) -> Path:
        """A verified file."""

    def licence(self, artifact: str) -> Any:
        """What the manifest says of it; ``sha256`` is used here."""

    def derive(self, name: str, *, key: str, build: Any) -> Path:
        """A cached product."""


def checkpoint(store: Store) -> Path:
    """Folder with safetensors, config and tokenizer of the base, made from the GGUF file the first time."""
    gguf = store.fetch(ARTIFACT)
    sha256 = store.licence(ARTIFACT).sha256
    return store.derive(
        NAME.lower(),
        key=f"gguf-to-safetensors-1 {sha256} transformers {transformers.__version__}",
        build=lambda folder: convert(gguf, folder),
    )


def served_checkpoint(store: Store, precision: Precision) -> Path:
    """The checkpoint to serve in ``precision``: for ``nf4`` one that is quantised already, made the first time."""
    folder = checkpoint(store)
    if precision != "nf4":
        return folder
    sha256 = store.licence(ARTIFACT).sha256
    libraries = f"transformers {transformers.__version__} bitsandbytes {version('bitsandbytes')}"
    return store.derive(
        f"{NAME.lower()}-nf4",
        key=f"nf4-double-quantised-1 {sha256} {libraries}",
        build=lambda place: quantise(folder, place),
    )


def prepare_base(store: Store) -> Path:
    """Makes what serving needs ahead of time; the name that the `polysight weights` command knows."""
    return served_checkpoint(store, "nf4")


def convert(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF checkpoint to float32 safetensors with its config and tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.config._name_or_path = NAME
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def quantise(folder: Path, place: Path) -> None:
    """Writes the checkpoint of ``folder`` to ``place`` with its linear layers in NF4, and the tokenizer beside it."""
    model = load_model(folder, "nf4")
    model.save_pretrained(place)
    load_tokenizer(folder).save_pretrained(place)


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a checkpoint folder."""
    return AutoTokenizer.from_pretrained(folder)


def load_model(folder: Path, precision: Precision = "nf4", *, attention: str = "sdpa") -> Any:
    """The base in evaluation mode on the CPU, frozen.

    Args:
        folder: what :func:`checkpoint` or :func:`served_checkpoint` returned. One that is quantised already can
            only be loaded as ``nf4`` or ``nf4-dequantised``; ValueError otherwise.
        precision: see the module.
        attention: name of an attention implementation that transformers knows.
    """
    arguments: dict[str, Any] = {"attn_implementation": attention}
    four_bit = precision in ("nf4", "nf4-dequantised")
    stored = _is_quantised(folder)
    if stored and not four_bit:
        raise ValueError(f"{folder} is quantised to 4 bits and cannot be loaded as {precision}")
    if four_bit and not stored:
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
    if precision == "nf4-dequantised":
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


def _is_quantised(folder: Path) -> bool:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return "quantization_config" in config


def _four_bit(model: nn.Module) -> list[tuple[str, Any]]:
    """Names and modules of all 4-bit layers."""
    from bitsandbytes.nn.modules import Linear4bit

    return [(name, module) for name, module in model.named_modules() if isinstance(module, Linear4bit)]
