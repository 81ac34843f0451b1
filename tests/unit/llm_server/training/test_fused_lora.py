"""The quick paths compute what peft and torch compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llm_server.tiny_model import tiny_model
from llm_server.training.fused_lora import fuse, unfuse
from llm_server.training.recipe import adapted
from llm_server.training.trainer import only_trains

TOKENS = torch.arange(24)[None] % 300


def two_adapters() -> Any:
    model = adapted(tiny_model(320), rank=4, alpha=8)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def logits_and_gradients(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=TOKENS).logits
    logits.square().mean().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if "lora_" in n}


@pytest.mark.parametrize("task", ["object", "vl"])
def test_fused_equals_peft_in_values_and_gradients(task: Any) -> None:
    model = two_adapters()
    only_trains(model, task)
    expected, expected_grads = logits_and_gradients(model)
    assert fuse(model) == 14
    found, grads = logits_and_gradients(model)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in expected_grads.items():
        if f".{task}." in name:
            torch.testing.assert_close(grads[name], gradient, rtol=1e-3, atol=1e-6)
        else:
            assert gradient is None
            assert grads[name] is None
    unfuse(model)
    torch.testing.assert_close(logits_and_gradients(model)[0], expected, rtol=0, atol=0)


def test_fused_layers_can_be_switched_off() -> None:
    model = two_adapters()
    with torch.no_grad():
        expected = tiny_model(320)(input_ids=TOKENS).logits
        fuse(model)
        with model.disable_adapter():
            torch.testing.assert_close(model(input_ids=TOKENS).logits, expected)
        assert (model(input_ids=TOKENS).logits - expected).abs().max() > 0.01


def test_fusing_refuses_what_it_does_not_compute() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.1)
    with pytest.raises(ValueError, match="dropout"):
        fuse(get_peft_model(tiny_model(320), config))
