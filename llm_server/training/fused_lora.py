"""A quicker forward and backward for summed peft adapters on a frozen linear layer, in training and evaluation.

peft computes each adapter in its own chain of casts, scalings and additions over the full activation; on a CPU those
passes over memory cost more than the matrix products. Here both adapters are one low-rank product of the
concatenated ranks, added in place, with a hand-written backward:

    y = x W^T + b + (x [A1; A2]^T) [s1 B1, s2 B2]^T

The parameters stay peft's own, so saving, loading and switching adapters are untouched; ``fuse`` changes how the
layers compute, ``unfuse`` puts peft's forward back. Same values up to rounding (tested).
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear


class _TwoAdapters(torch.autograd.Function):
    """Low-rank sum on a frozen weight; gradients for the input and for what asks for one among A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor
    ) -> torch.Tensor:
        """x (..., I), weight (O, I), a (R, I), b (O, R), one dtype -> (..., O)."""
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.t()
        out = flat @ weight.t()
        out.addmm_(low, b.t())
        ctx.save_for_backward(flat, weight, a, b, low)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients in the order of the forward's arguments; the weight is frozen."""
        flat, weight, a, b, low = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        grad_low = grad @ b
        grad_x = grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            grad_x.addmm_(grad_low, a)
            grad_x = grad_x.view(*grads[0].shape[:-1], -1)
        if ctx.needs_input_grad[2]:
            grad_a = grad_low.t() @ flat
        if ctx.needs_input_grad[3]:
            grad_b = grad.t() @ low
        return grad_x, None, grad_a, grad_b


def _forward(self: LoraLinear, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Replaces peft's ``Linear.forward``: no dropout, no per-row adapters, no merging; switching off works."""
    base: Any = self.base_layer
    weight: torch.Tensor = base.weight
    if self.disable_adapters:
        return torch.nn.functional.linear(x, weight)
    names = self.active_adapters
    lora_a: Any = self.lora_A
    lora_b: Any = self.lora_B
    a = torch.cat([lora_a[n].weight for n in names]).to(weight.dtype)
    b = torch.cat([lora_b[n].weight * self.scaling[n] for n in names], dim=1).to(weight.dtype)
    out: torch.Tensor = _TwoAdapters.apply(x, weight, a, b)
    return out


def fuse(model: torch.nn.Module) -> int:
    """Gives every LoRA linear layer without bias the quick forward; returns how many there were.

    Raises:
        ValueError: a layer has a bias or LoRA dropout, which this path does not compute.
    """
    layers = [m for m in model.modules() if isinstance(m, LoraLinear)]
    for layer in layers:
        if layer.base_layer.bias is not None:
            raise ValueError("the fused path computes layers without bias only")
        if any(getattr(d, "p", 0.0) for d in layer.lora_dropout.values()):
            raise ValueError("the fused path computes adapters without dropout only")
        layer.forward = _forward.__get__(layer)
    return len(layers)


def unfuse(model: torch.nn.Module) -> None:
    """Puts peft's own forward back."""
    for layer in model.modules():
        if isinstance(layer, LoraLinear):
            layer.__dict__.pop("forward", None)
