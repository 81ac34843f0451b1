"""Attention for packed sequences on a CPU: plain matrix products in the model's own dtype.

torch's CPU kernels for a masked bf16 attention have a slow backward (25 ms a layer at 368 tokens against 4 ms for
its parts), and transformers' eager path copies the keys once for each query head and the scores to float32. Here the
query heads that share a key head are one matrix product, and the scores are written once.

Registered with transformers as ``polysight_packed``; takes the additive mask of ``additive``.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from transformers import AttentionInterface

NAME: Final = "polysight_packed"


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bool mask (True = attends) -> 0 and the least finite number of ``dtype``, same shape."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(dtype).min
    )


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, H, L, D), key and value (B, K, S, D), mask (B, 1, L, S) -> (B, L, H, D).

    Raises:
        ValueError: no mask was given, or dropout was asked for.
    """
    if attention_mask is None or dropout:
        raise ValueError("packed attention needs its mask and knows no dropout")
    batch, heads, length, size = query.shape
    groups, seen = key.shape[1], key.shape[2]
    grouped = (query * scaling).reshape(batch * groups, heads // groups * length, size)
    scores = grouped @ key.reshape(batch * groups, seen, size).transpose(1, 2)
    scores.view(batch, heads, length, seen).add_(attention_mask)
    weights = torch.softmax(scores, dim=-1)
    out = weights @ value.reshape(batch * groups, seen, size)
    return out.view(batch, heads, length, size).transpose(1, 2).contiguous(), None


def register() -> str:
    """Makes the attention known to transformers; returns its name."""
    AttentionInterface.register(NAME, packed_attention)
    return NAME
