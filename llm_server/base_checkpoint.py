"""The base language model on disk: GGUF -> safetensors once, and what is served from it, quantised once.

The checkpoint ships as GGUF (Q4_1 blocks) inside a registry package. It is dequantised once to float32 safetensors and
kept in the weight store; so are its 4-bit form and the values of that, unpacked, since to quantise takes seconds of
every start. Imports torch only to build one of them.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, Protocol

ARTIFACT: Final = "smollm2-135m-instruct-gguf"
NAME: Final = "SmolLM2-135M-Instruct"

#: See :mod:`llm_server.base_model`.
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
        key=f"gguf-to-safetensors-1 {sha256} transformers {version('transformers')}",
        build=lambda folder: convert(gguf, folder),
    )


def served_checkpoint(store: Store, precision: Precision) -> Path:
    """The checkpoint to serve in ``precision``: for the two of NF4 one that is quantised, made the first time."""
    folder = checkpoint(store)
    if precision not in ("nf4", "nf4-dequantised"):
        return folder
    sha256 = store.licence(ARTIFACT).sha256
    libraries = f"transformers {version('transformers')} bitsandbytes {version('bitsandbytes')}"
    return store.derive(
        f"{NAME.lower()}-{precision}",
        key=f"{precision}-1 {sha256} {libraries}",
        build=lambda place: quantise(folder, place, precision),
    )


def prepare_base(store: Store) -> Path:
    """Makes what serving reads ahead of time: `polysight weights fetch` does."""
    return served_checkpoint(store, "nf4-dequantised")


def convert(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF checkpoint to float32 safetensors with its config and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from llm_server.base_model import without_bars

    without_bars()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.config._name_or_path = NAME
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def quantise(folder: Path, place: Path, precision: Precision) -> None:
    """Write the checkpoint of ``folder`` to ``place`` as it is loaded in ``precision``, and the tokenizer beside it."""
    from llm_server.base_model import STORED_PRECISION, load_model, load_tokenizer

    model = load_model(folder, precision)
    if precision == "nf4-dequantised":
        setattr(model.config, STORED_PRECISION, precision)
    model.save_pretrained(place)
    load_tokenizer(folder).save_pretrained(place)
