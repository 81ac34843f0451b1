"""Lean norms, gated units and rotations compute what transformers' own do."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama import modeling_llama

from llm_server.tiny_model import tiny_model
from llm_server.training.lean_layers import lean, rotate_both, unlean

TOKENS = torch.arange(24)[None] % 300


def states_and_gradient(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits for embeddings, and what the loss says of the embeddings."""
    embeddings = model.get_input_embeddings()(TOKENS).detach().requires_grad_()  # type: ignore[operator]
    logits = model(inputs_embeds=embeddings).logits
    logits.float().square().mean().backward()
    assert embeddings.grad is not None
    return logits.detach(), embeddings.grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lean_equals_transformers_in_values_and_gradients(dtype: torch.dtype, tolerance: float) -> None:
    model = tiny_model(320).to(dtype).requires_grad_(False)
    torch.manual_seed(5)
    for module in model.modules():
        if isinstance(module, modeling_llama.LlamaRMSNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    logits, gradient = states_and_gradient(model)
    layers = int(model.config.num_hidden_layers)
    try:
        assert lean(model) == 3 * layers + 1
        found, lean_gradient = states_and_gradient(model)
    finally:
        unlean(model)
    torch.testing.assert_close(found, logits, rtol=tolerance, atol=tolerance * logits.abs().max().item())
    largest = gradient.abs().max().item()
    assert largest > 0
    torch.testing.assert_close(lean_gradient, gradient, rtol=tolerance, atol=tolerance * largest)
    torch.testing.assert_close(states_and_gradient(model)[0], logits, rtol=0, atol=0)


def test_it_refuses_what_it_does_not_compute() -> None:
    model = tiny_model(320).requires_grad_(True)
    with pytest.raises(ValueError, match="no gradient for its weight"):
        lean(model)
    unlean(model)
    with pytest.raises(ValueError, match="dimension 1"):
        rotate_both(torch.ones(1), torch.ones(1), torch.ones(1), torch.ones(1), unsqueeze_dim=2)
