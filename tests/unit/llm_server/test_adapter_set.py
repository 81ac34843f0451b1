"""Stacked adapters against peft and against the merged weights; loading and dropping leaves the others as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_server.adapter_files import AdapterFiles, AdapterRefused, read_adapter
from llm_server.adapter_set import AdapterSet
from llm_server.model_runner import TorchRunner
from llm_server.tiny_model import BASE_NAME, save_tiny_adapter, tiny_model

VOCABULARY = 320
BLOCKS = range(8)
TOKENS = [5, 80, 161, 9, 300, 44, 7]


def logits(adapters: AdapterSet, scales: tuple[tuple[str, float], ...]) -> torch.Tensor:
    runner = TorchRunner(adapters, blocks=8)
    row = runner.prefill(TOKENS, start=0, blocks=BLOCKS, adapters=scales, last=True)
    assert row is not None
    return torch.from_numpy(row)


def test_the_sum_equals_the_merge_of_the_concatenated_ranks(adapter_files: list[AdapterFiles]) -> None:
    """One LoRA of rank 4 + 2, with [A1; A2] and [s1 B1, s2 B2], added to the weights."""
    model: Any = tiny_model(VOCABULARY)
    factors = {"object": 1.0, "vl": -0.75}
    for name, linear in model.named_modules():
        if not name.endswith(("q_proj", "k_proj", "v_proj", "o_proj")):
            continue
        a, b = [], []
        for adapter in adapter_files:
            tensors = load_file(adapter.weights)
            scale = factors[adapter.name] * adapter.alpha / adapter.rank
            a.append(tensors[f"base_model.model.{name}.lora_A.weight"])
            b.append(scale * tensors[f"base_model.model.{name}.lora_B.weight"])
        with torch.no_grad():
            linear.weight += torch.cat(b, dim=1) @ torch.cat(a)
    with torch.inference_mode():
        merged = model(input_ids=torch.tensor([TOKENS])).logits[0, -1]
    ours = logits(AdapterSet(tiny_model(VOCABULARY), adapter_files), tuple(factors.items()))
    scale = float(merged.abs().max())
    assert float((ours - merged).abs().max()) / scale < 1e-5


def test_an_adapter_between_two_others_can_be_dropped(adapters_root: Path, tmp_path: Path) -> None:
    base = BASE_NAME
    three = [read_adapter(adapters_root / name, base=base) for name in ("object", "vl")]
    three.insert(1, read_adapter(save_tiny_adapter(tmp_path / "more", VOCABULARY, seed=9, rank=3), base=base))
    adapters = AdapterSet(tiny_model(VOCABULARY), three)
    scales = (("object", 1.0), ("vl", 0.5))
    before = logits(adapters, scales)
    adapters.drop("more")
    adapters.drop("never was")
    assert adapters.keys == ("object", "vl")
    torch.testing.assert_close(logits(adapters, scales), before)
    with pytest.raises(KeyError, match="more"):
        logits(adapters, (("more", 1.0),))


def test_a_row_that_wants_none_gets_exactly_the_base_beside_others(adapter_set: AdapterSet) -> None:
    factors = adapter_set.factors([(("object", 1.0),), (("object", 0.0),), ()])
    assert factors is not None
    stack = adapter_set.stacks[0][0]
    x = torch.randn(3, 32)
    out = torch.zeros(3, 64)
    stack.add_to(out, x, factors.by_layers[3])
    assert out[0].abs().max() > 0.01
    assert not out[1:].any()


def test_without_adapters_no_product_is_made(adapter_set: AdapterSet) -> None:
    assert adapter_set.factors([(), (("vl", 0.0),)]) is None
    # Adapters that sit on attention alone cost nothing elsewhere.
    assert all(stacks[2].a is None and stacks[3].a is None for stacks in adapter_set.stacks)


def test_a_hundred_swaps_leave_nothing_behind(adapter_files: list[AdapterFiles]) -> None:
    adapters = AdapterSet(tiny_model(VOCABULARY), adapter_files)
    scales = (("object", 1.0), ("vl", 1.0))
    before = logits(adapters, scales)

    def held() -> int:
        return sum(
            tensor.untyped_storage().nbytes()
            for stacks in adapters.stacks
            for stack in stacks
            for tensor in (stack.a, stack.b)
            if tensor is not None
        )

    size = held()
    for number in range(100):
        adapters.add(f"new {number}", adapters.read(adapter_files[number % 2]))
        adapters.drop(f"new {number}")
    assert held() == size
    torch.testing.assert_close(logits(adapters, scales), before)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_adapter(tmp_path / "object", VOCABULARY, seed=1)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = sorted(tensors)[0]
    tensors[name][0, 0] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(AdapterRefused, match="finite"):
        AdapterSet(tiny_model(VOCABULARY), [read_adapter(folder, base=BASE_NAME)])


def test_rank_stabilised_scaling_is_that_of_peft(adapters_root: Path) -> None:
    plain = read_adapter(adapters_root / "object", base=BASE_NAME)
    assert plain.scaling == 2.0
    stabilised = AdapterFiles(
        **{field: getattr(plain, field) for field in ("name", "folder", "base", "rank", "alpha", "sha256")},
        description="",
        rank_stabilised=True,
    )
    assert stabilised.scaling == 4.0
