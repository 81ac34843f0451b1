"""Attention for packed sequences on a CPU: plain matrix products in the model's own dtype, only where one attends.

torch's CPU kernels for a masked bf16 attention have a slow backward (25 ms a layer at 368 tokens against 4 ms for
its parts), and transformers' eager path copies the keys once for each query head and the scores to float32. Here the
query heads that share a key head are one matrix product, and the scores are written once.

A packed sequence attends to less than half of what is before it: a branch to the prefix and to itself. So a long one is
computed in strips of queries, each against the runs of keys that any of its rows attends to.

Registered with transformers as ``polysight_packed``; takes the additive mask of ``additive``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AttentionInterface

NAME: Final = "polysight_packed"

#: Queries of a strip. Shorter strips skip more, and are more and smaller products.
STRIP: Final = 128

#: Keys are skipped or read in blocks of as many.
BLOCK: Final = 16


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool mask (True = attends) -> 0 and the least finite number of ``dtype``, same shape."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(dtype).min
    )


@dataclass(frozen=True)
class Strip:
    """Queries ``start`` to ``end`` and the half-open ``runs`` of keys that they attend to.

    Of these the last are not attended to by all: ``mask`` (B, 1, queries, last keys) is added to their scores.
    """

    start: int
    end: int
    runs: tuple[tuple[int, int], ...]
    mask: Tensor

    def keys(self, rows: Tensor) -> Tensor:
        """(..., S, D) -> (..., keys of all runs, D)."""
        parts = [rows[..., start:end, :] for start, end in self.runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)

    def add_to(self, rows: Tensor, keys: Tensor) -> None:
        """Adds (..., keys of all runs, D) to where they belong in (..., S, D)."""
        at = 0
        for start, end in self.runs:
            rows[..., start:end, :] += keys[..., at : at + end - start, :]
            at += end - start


def strips(mask: Tensor) -> tuple[Strip, ...]:
    """Additive mask (B, 1, L, S) -> the strips of its queries. A key outside the runs of a strip is masked for all.

    Raises:
        ValueError: the queries of a whole strip attend to nothing.
    """
    found = []
    seen = mask.shape[-1]
    attends = (mask == 0).any(dim=0)[0]
    for start in range(0, mask.shape[-2], STRIP):
        end = min(start + STRIP, mask.shape[-2])
        of_any = attends[start:end].any(dim=0)
        if not of_any.any():
            raise ValueError(f"the queries {start} to {end} attend to nothing")
        blocks = torch.nn.functional.pad(of_any, (0, -seen % BLOCK)).view(-1, BLOCK).any(dim=1).tolist()
        runs: list[tuple[int, int]] = []
        for number, used in enumerate(blocks):
            first, last = number * BLOCK, min((number + 1) * BLOCK, seen)
            if used and runs and runs[-1][1] == first:
                runs[-1] = (runs[-1][0], last)
            elif used:
                runs.append((first, last))
        among = torch.cat([mask[:, :, start:end, a:b] for a, b in runs], dim=-1)
        by_all = (among == 0).all(dim=2).all(dim=0)[0].int().cumprod(dim=0).sum()
        found.append(Strip(start, end, tuple(runs), among[..., int(by_all) :].contiguous()))
    return tuple(found)


class _StripAttention(torch.autograd.Function):
    """Softmax attention strip by strip; the weights of each are kept for the backward."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: tuple[Strip, ...], scaling: float
    ) -> Tensor:
        """query (B, H, L, D), key and value (B, K, S, D) -> (B, L, H, D)."""
        batch, heads, length, size = query.shape
        groups, seen = key.shape[1], key.shape[2]
        keys, values = key.reshape(batch * groups, seen, size), value.reshape(batch * groups, seen, size)
        out = torch.empty((batch, length, heads, size), dtype=query.dtype, device=query.device)
        kept = []
        for part in parts:
            asked = _grouped(query[:, :, part.start : part.end], groups).mul(scaling)
            scores = asked @ part.keys(keys).transpose(1, 2)
            of_heads = scores.view(batch, heads, part.end - part.start, -1)
            of_heads[..., of_heads.shape[-1] - part.mask.shape[-1] :].add_(part.mask)
            weights = torch.softmax(scores, dim=-1)
            answer = (weights @ part.keys(values)).view(batch, heads, part.end - part.start, size)
            out[:, part.start : part.end] = answer.transpose(1, 2)
            kept.append(weights)
        ctx.save_for_backward(query, keys, values, *kept)
        ctx.parts, ctx.scaling = parts, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value; those of keys add up in float32 over the strips."""
        query, keys, values, *kept = ctx.saved_tensors
        batch, heads, _, size = query.shape
        groups = keys.shape[0] // batch
        grad_query = torch.empty_like(query)
        grad_keys = torch.zeros(keys.shape, dtype=torch.float32, device=keys.device)
        grad_values = torch.zeros_like(grad_keys)
        for part, weights in zip(ctx.parts, kept, strict=True):
            rows = part.end - part.start
            grad = _grouped(grads[0][:, part.start : part.end].transpose(1, 2), groups)
            part.add_to(grad_values, weights.transpose(1, 2) @ grad)
            grad_weights = grad @ part.keys(values).transpose(1, 2)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            asked = _grouped(query[:, :, part.start : part.end], groups).mul(ctx.scaling)
            part.add_to(grad_keys, grad_scores.transpose(1, 2) @ asked)
            of_query = (grad_scores @ part.keys(keys)).view(batch, heads, rows, size)
            torch.mul(of_query, ctx.scaling, out=grad_query[:, :, part.start : part.end])
        shape = (batch, groups, *keys.shape[1:])
        return (
            grad_query,
            grad_keys.to(keys.dtype).view(shape),
            grad_values.to(keys.dtype).view(shape),
            None,
            None,
        )


def _grouped(rows: Tensor, groups: int) -> Tensor:
    """(B, H, N, D) -> (B * groups, H / groups * N, D): what shares a key head is one matrix."""
    batch, heads, count, size = rows.shape
    return rows.reshape(batch * groups, heads // groups * count, size)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (B, H, L, D), key and value (B, K, S, D), mask (B, 1, L, S) -> (B, L, H, D).

    Raises:
        ValueError: no mask was given, a whole strip attends to nothing, or dropout was asked for.
    """
    if attention_mask is None or dropout:
        raise ValueError("packed attention needs its mask and knows no dropout")
    # All layers are given one mask: its strips are found once and stay with it.
    parts = getattr(attention_mask, "strips", None)
    if parts is None:
        parts = strips(attention_mask)
        setattr(attention_mask, "strips", parts)  # noqa: B010 - torch's stubs know no such attribute
    out: Tensor = _StripAttention.apply(query, key, value, parts, scaling)
    return out, None


def register() -> str:
    """Makes the attention known to transformers; returns its name."""
    AttentionInterface.register(NAME, packed_attention)
    return NAME
