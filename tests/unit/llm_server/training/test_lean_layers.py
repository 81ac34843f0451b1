"""Lean norms, gated units and rotations compute what transformers' own do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers.models.llama import modeling_llama

from llm_server.tiny_model import tiny_model
from llm_server.training.lean_layers import lean, leaned, rotate_both, unlean

TOKENS = torch.arange(24)[None] % 300


def states_and_gradient(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits for embeddings, and what the loss says of the embeddings."""
    embeddings = model.get_input_embeddings()(TOKENS).detach().requires_grad_()  # type: ignore[operator]
    logits = model(inputs_embeds=embeddings).logits
    logits.float().square().mean().backward()
    assert embeddings.grad is not None
    return logits.detach(), embeddings.grad


def model_of(dtype: torch.dtype) -> Any:
    model: Any = tiny_model(320)
    model.to(dtype).requires_grad_(False)
    torch.manual_seed(5)
    for module in model.modules():
        if isinstance(module, modeling_llama.LlamaRMSNorm):
            module.weight.copy_(torch.rand_like(module.weight, dtype=torch.float32) + 0.5)
    return model


def test_lean_equals_transformers_in_values_and_gradients() -> None:
    model = model_of(torch.float32)
    logits, gradient = states_and_gradient(model)
    try:
        assert lean(model) == 3 * int(model.config.num_hidden_layers) + 1
        found, lean_gradient = states_and_gradient(model)
    finally:
        unlean(model)
    largest = gradient.abs().max().item()
    assert largest > 0
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lean_gradient, gradient, rtol=1e-4, atol=1e-5 * largest)
    torch.testing.assert_close(states_and_gradient(model)[0], logits, rtol=0, atol=0)


def test_in_bfloat16_it_is_as_near_to_the_truth_as_transformers_is() -> None:
    model = model_of(torch.bfloat16)
    exact = copy.deepcopy(model).float()
    truth = states_and_gradient(exact)
    usual = states_and_gradient(model)
    try:
        lean(model)
        found = states_and_gradient(model)
    finally:
        unlean(model)
    for mine, theirs, true in zip(found, usual, truth, strict=True):
        assert (mine.float() - true).norm() <= 1.3 * (theirs.float() - true).norm()


def test_a_failure_inside_leaves_transformers_as_it_was() -> None:
    model, own = model_of(torch.float32), modeling_llama.apply_rotary_pos_emb

    def fail() -> None:
        with leaned(model):
            assert modeling_llama.apply_rotary_pos_emb is rotate_both
            raise RuntimeError("no more memory")

    with pytest.raises(RuntimeError, match="no more memory"):
        fail()
    assert modeling_llama.apply_rotary_pos_emb is own
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_model_that_is_refused_is_left_alone() -> None:
    model, own = model_of(torch.float32), modeling_llama.apply_rotary_pos_emb
    # The last of its modules is what is wrong with it.
    model.model.norm.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="no gradient for its weight"), leaned(model):
        pytest.fail("it was accepted")
    assert modeling_llama.apply_rotary_pos_emb is own
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_it_refuses_what_it_does_not_compute() -> None:
    model = tiny_model(320).requires_grad_(True)
    with pytest.raises(ValueError, match="no gradient for its weight"):
        lean(model)
    unlean(model)
    with pytest.raises(ValueError, match="dimension 1"):
        rotate_both(torch.ones(1), torch.ones(1), torch.ones(1), torch.ones(1), unsqueeze_dim=2)
