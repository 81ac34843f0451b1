"""The base in each precision: what is trained on has the values of what is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit

from llm_server import base_checkpoint, base_model
from llm_server.tiny_model import tiny_model, tiny_tokenizer

TOKENS = torch.arange(12)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoint")
    tiny_model(320, seed=5).save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return place


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits.float()  # type: ignore[no-any-return]


def test_dequantised_layers_give_what_the_served_layers_give(folder: Path) -> None:
    served = base_model.load_model(folder, "nf4")
    plain = base_model.load_model(folder, "nf4-dequantised")
    assert sum(isinstance(m, Linear4bit) for m in served.modules()) == 14
    assert not any(isinstance(m, Linear4bit) for m in plain.modules())
    torch.testing.assert_close(logits(plain), logits(served), rtol=0, atol=0)
    whole = logits(base_model.load_model(folder, "fp32"))
    assert (logits(served) - whole).abs().max() > 1e-3, "quantisation must be seen, or it was not done"


@pytest.mark.parametrize("precision", ["nf4", "nf4-dequantised"])
def test_a_stored_quantised_checkpoint_is_what_quantising_at_the_start_gives(
    folder: Path, tmp_path: Path, precision: Any
) -> None:
    stored = tmp_path / "stored"
    base_checkpoint.quantise(folder, stored, precision)
    served = base_model.load_model(stored, precision)
    torch.testing.assert_close(logits(served), logits(base_model.load_model(folder, "nf4")), rtol=0, atol=0)
    assert sum(isinstance(m, Linear4bit) for m in served.modules()) == (14 if precision == "nf4" else 0)
    assert base_model.load_tokenizer(stored).get_vocab() == base_model.load_tokenizer(folder).get_vocab()
    with pytest.raises(ValueError, match=f"holds the base as {precision}"):
        base_model.load_model(stored, "fp32")


def test_a_stored_nf4_checkpoint_can_be_unpacked_but_not_packed_again(folder: Path, tmp_path: Path) -> None:
    base_checkpoint.quantise(folder, tmp_path / "nf4", "nf4")
    base_checkpoint.quantise(folder, tmp_path / "unpacked", "nf4-dequantised")
    unpacked = base_model.load_model(tmp_path / "nf4", "nf4-dequantised")
    stored = base_model.load_model(tmp_path / "unpacked", "nf4-dequantised")
    torch.testing.assert_close(logits(unpacked), logits(stored), rtol=0, atol=0)
    with pytest.raises(ValueError, match="cannot be loaded as nf4"):
        base_model.load_model(tmp_path / "unpacked", "nf4")


def test_weight_packing_is_off_so_that_gradients_survive_an_evaluation(folder: Path) -> None:
    model = base_model.load_model(folder, "nf4")
    for module in model.modules():
        if isinstance(module, Linear4bit):
            assert module.support_avx512bf16_for_cpu is False
    logits(model)
    inputs = model.get_input_embeddings()(TOKENS).detach().requires_grad_(True)
    model(inputs_embeds=inputs).logits.float().sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0


@pytest.mark.parametrize("precision", ["nf4", "nf4-dequantised", "bf16", "fp32"])
def test_every_precision_loads_frozen_under_the_bases_name(folder: Path, precision: Any) -> None:
    model = base_model.load_model(folder, precision)
    assert model.config._name_or_path == base_checkpoint.NAME
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
    wanted = torch.float32 if precision == "fp32" else torch.bfloat16
    assert model.get_input_embeddings().weight.dtype == wanted


def test_conversion_is_derived_once_from_the_verified_file(tmp_path: Path) -> None:
    class Info:
        sha256 = "ab" * 32

    class Store:
        keys: list[str]

        def __init__(self) -> None:
            self.keys = []

        def fetch(self, artifact: str) -> Path:
            assert artifact == base_checkpoint.ARTIFACT
            return tmp_path / "model.gguf"

        def licence(self, artifact: str) -> Info:
            return Info()

        def derive(self, name: str, *, key: str, build: Any) -> Path:
            self.keys.append(key)
            return tmp_path / name

    store = Store()
    assert base_checkpoint.checkpoint(store) == tmp_path / "smollm2-135m-instruct"
    assert Info.sha256 in store.keys[0]
    assert base_checkpoint.served_checkpoint(store, "bf16") == tmp_path / "smollm2-135m-instruct"
    assert base_checkpoint.served_checkpoint(store, "nf4") == tmp_path / "smollm2-135m-instruct-nf4"
    assert base_checkpoint.prepare_base(store) == tmp_path / "smollm2-135m-instruct-nf4-dequantised"
    assert len(set(store.keys)) == 3
    assert all(Info.sha256 in key for key in store.keys)
