"""Rotary position embedding (RoFormer, section 3.2.2), the two halves of a head rotated against each other."""

from __future__ import annotations

import torch
from torch import Tensor


def rotation(positions: Tensor, width: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine for ``positions`` (B, T) int64: two tensors (B, 1, T, width), computed in float32."""
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    angles = positions[:, None, :, None].float() * theta**-exponents
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate ``states`` (B, heads, T, width) by the angles of :func:`rotation`."""
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat((-second, first), dim=-1) * sine
