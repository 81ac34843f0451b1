"""Norms, gated units and rotations of a Llama-like base in fewer passes over memory, for training on a CPU.

On a CPU most of a step is not matrix products but the small operations around them, each a pass over the activations
and, in the backward, several. Here each of the three is one autograd function with a hand-written backward that keeps
no intermediate. Same values up to rounding (tested against transformers' own modules).

``leaned`` changes how the modules of one model compute, within a block; ``lean`` and ``unlean`` are its two ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers.models.llama import modeling_llama


class _Norm(torch.autograd.Function):
    """Root-mean-square norm with a frozen weight; the mean is taken in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """x (..., H), weight (H,) -> (..., H) in x's dtype."""
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        scale = squares.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return torch.mul(x, scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of x alone."""
        x, weight, scale = ctx.saved_tensors
        grad = grads[0] * weight
        along = (grad * x).sum(-1, keepdim=True, dtype=torch.float32)
        along.mul_(scale.pow(3)).div_(x.shape[-1])
        return torch.addcmul(grad * scale.to(x.dtype), x, along.to(x.dtype), value=-1), None, None


class _GatedUnit(torch.autograd.Function):
    """silu(gate) * up; silu is computed again in the backward instead of being kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Two tensors of one shape -> that shape."""
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of gate and up."""
        gate, up = ctx.saved_tensors
        grad_gate: Tensor = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return grad_gate, silu(gate).mul_(grads[0])


class _Rotation(torch.autograd.Function):
    """Rotary positions; the backward is the rotation the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """x (B, heads, L, D), cosine and sine (B, L, D) with equal halves -> x's shape."""
        ctx.save_for_backward(cosine, sine)
        return _rotated(x, cosine, sine)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of x alone."""
        cosine, sine = ctx.saved_tensors
        return _rotated(grads[0], cosine, -sine), None, None


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    cosine, sine = cosine[:, None, :, :half], sine[:, None, :, :half]
    first, second = x[..., :half], x[..., half:]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(first, cosine, out=out[..., :half]).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=out[..., half:]).addcmul_(first, sine)
    return out


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    out: Tensor = _Norm.apply(hidden_states, self.weight, self.variance_epsilon)
    return out


def _mlp(self: Any, x: Tensor) -> Tensor:
    out: Tensor = self.down_proj(_GatedUnit.apply(self.gate_proj(x), self.up_proj(x)))
    return out


def rotate_both(
    query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """What transformers calls ``apply_rotary_pos_emb``, for heads in dimension 1.

    Raises:
        ValueError: the heads are in another dimension.
    """
    if unsqueeze_dim != 1:
        raise ValueError("the lean rotation wants its heads in dimension 1")
    return _Rotation.apply(query, cosine, sine), _Rotation.apply(key, cosine, sine)


_OWN_ROTATION = modeling_llama.apply_rotary_pos_emb


def lean(model: torch.nn.Module) -> int:
    """Gives the norms and gated units of a Llama their lean forward, and the rotation to all; returns how many.

    The rotation is a function of transformers' module: every Llama of the process has it until :func:`unlean`. So
    :func:`leaned` is the better way wherever there is one block to put around.

    Raises:
        ValueError: a gated unit has another activation than SiLU, or a norm's weight is to be trained. Nothing is
            changed then.
    """
    forwards: list[tuple[torch.nn.Module, Any]] = []
    for module in model.modules():
        if isinstance(module, modeling_llama.LlamaRMSNorm):
            if module.weight.requires_grad:
                raise ValueError("the lean norm computes no gradient for its weight")
            forwards.append((module, _norm))
        elif isinstance(module, modeling_llama.LlamaMLP):
            if module.config.hidden_act != "silu":
                raise ValueError(f"the lean gated unit knows silu, not {module.config.hidden_act}")
            forwards.append((module, _mlp))
    for module, forward in forwards:
        module.__dict__["forward"] = forward.__get__(module)
    modeling_llama.apply_rotary_pos_emb = rotate_both
    return len(forwards)


def unlean(model: torch.nn.Module) -> None:
    """Puts the modules' own forward and transformers' rotation back."""
    for module in model.modules():
        if isinstance(module, modeling_llama.LlamaRMSNorm | modeling_llama.LlamaMLP):
            module.__dict__.pop("forward", None)
    modeling_llama.apply_rotary_pos_emb = _OWN_ROTATION


@contextmanager
def leaned(model: torch.nn.Module) -> Iterator[None]:
    """``model`` is lean within, and the process as it was afterwards, whatever happens. Raises as :func:`lean`."""
    lean(model)
    try:
        yield
    finally:
        unlean(model)
