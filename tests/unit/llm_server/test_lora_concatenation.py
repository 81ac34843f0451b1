"""Several adapters as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file

from llm_server.adapter_files import AdapterFiles, AdapterRefused, read_adapter
from llm_server.lora_concatenation import LowRank, concatenate, read_low_rank, save_concatenated
from llm_server.tiny_model import BASE_NAME, tiny_model

VOCABULARY = 320


@st.composite
def parts(draw: st.DrawFn) -> list[tuple[LowRank, float]]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shapes = {name: draw(st.tuples(st.integers(1, 6), st.integers(1, 6))) for name in ("q", "v", "up")}
    made: list[tuple[LowRank, float]] = []
    for _ in range(draw(st.integers(1, 3))):
        rank = draw(st.integers(1, 5))
        layers = draw(st.sets(st.sampled_from(sorted(shapes)), min_size=1))
        part = {
            layer: (
                torch.randn(rank, shapes[layer][1], generator=generator),
                torch.randn(shapes[layer][0], rank, generator=generator),
            )
            for layer in sorted(layers)
        }
        made.append((part, draw(st.floats(-3, 3))))
    return made


@settings(max_examples=60, deadline=None)
@given(parts())
def test_the_product_is_the_sum_of_the_products(made: list[tuple[LowRank, float]]) -> None:
    merged = concatenate(made)
    assert len({pair[0].shape[0] for pair in merged.values()}) == 1
    for layer, (down, up) in merged.items():
        expected = sum(
            factor * (part[layer][1].double() @ part[layer][0].double())
            for part, factor in made
            if layer in part
        )
        np.testing.assert_allclose((up @ down).numpy(), np.asarray(expected), rtol=0, atol=1e-5)


def test_adapters_of_different_shapes_or_ranks_do_not_go_together() -> None:
    one = {"q": (torch.ones(2, 3), torch.ones(4, 2))}
    with pytest.raises(ValueError, match="different shapes"):
        concatenate([(one, 1.0), ({"q": (torch.ones(2, 5), torch.ones(4, 2))}, 1.0)])
    with pytest.raises(ValueError, match="one rank"):
        concatenate([({**one, "v": (torch.ones(3, 3), torch.ones(4, 3))}, 1.0)])
    with pytest.raises(ValueError, match="nothing"):
        concatenate([])


def test_a_model_with_the_one_adapter_is_the_model_with_both(
    adapter_files: list[AdapterFiles], tmp_path: Path
) -> None:
    scales = {"object": 0.5, "vl": -1.5}
    folder = save_concatenated([(one, scales[one.name]) for one in adapter_files], tmp_path / "both")
    tokens = torch.tensor([[5, 9, 200, 17, 3, 3, 80]])
    one: Any = PeftModel.from_pretrained(tiny_model(VOCABULARY), str(folder))
    both: Any = PeftModel.from_pretrained(
        tiny_model(VOCABULARY), str(adapter_files[0].folder), adapter_name="object"
    )
    both.load_adapter(str(adapter_files[1].folder), adapter_name="vl")
    both.base_model.set_adapter(list(scales))
    for module in both.modules():
        for name, scale in scales.items():
            if hasattr(module, "set_scale"):
                module.set_scale(name, scale)
    with torch.inference_mode():
        difference = (one.eval()(tokens).logits - both.eval()(tokens).logits).abs().max()
    assert float(difference) < 1e-4


def test_what_is_saved_is_an_adapter_like_any_other(
    adapter_files: list[AdapterFiles], tmp_path: Path
) -> None:
    folder = save_concatenated([(one, 1.0) for one in adapter_files], tmp_path / "both")
    read = read_adapter(folder, base=BASE_NAME)
    assert (read.rank, read.alpha, read.scaling) == (6, 6.0, 1.0)
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert set(load_file(read.weights)) == set(load_file(adapter_files[0].weights))


def test_tensors_of_another_kind_are_refused(adapter_files: list[AdapterFiles], tmp_path: Path) -> None:
    config = (adapter_files[0].folder / "adapter_config.json").read_text("utf-8")
    (tmp_path / "adapter_config.json").write_text(config, "utf-8")
    for tensors in ({"model.norm.weight": torch.ones(2)}, {"model.q.lora_A.weight": torch.ones(2, 2)}):
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        with pytest.raises(AdapterRefused):
            read_low_rank(read_adapter(tmp_path, base=BASE_NAME))
