"""MoAI's compressor: a Perceiver resampler (Flamingo, section 3.1.1) from any number of auxiliary tokens to 64 latents.

The published one knows no padding: in a batch the padded tokens of a shorter text take part, and an answer depends on
its batch mates. With `valid` given they do not, and a batch of N gives what N batches of one give.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm_server.models.dimensions import CompressorDimensions


class PerceiverAttention(nn.Module):
    """Latents attend to the media and to themselves."""

    def __init__(self, width: int, compressor: CompressorDimensions) -> None:
        super().__init__()
        self._heads = compressor.heads
        inner = compressor.heads * compressor.head_width
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, media: Tensor, latents: Tensor, visible: Tensor | None) -> Tensor:
        """(B, m, H) and (B, latents, H) -> (B, latents, H); ``visible`` (B, 1, 1, m + latents) bool or None for all."""
        latents = self.norm_latents(latents)
        told = torch.cat((self.norm_media(media), latents), dim=1)
        keys, values = self.to_kv(told).chunk(2, dim=-1)
        queries, keys, values = (self._split(states) for states in (self.to_q(latents), keys, values))
        heard = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
        out: Tensor = self.to_out(heard.transpose(1, 2).flatten(2))
        return out

    def _split(self, states: Tensor) -> Tensor:
        return states.reshape(*states.shape[:2], self._heads, -1).transpose(1, 2)


class Compressor(nn.Module):
    """Learned latents, `depth` times attention and feed-forward, each added to them, and a final norm."""

    def __init__(self, width: int, compressor: CompressorDimensions) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(compressor.latents, width))
        self.layers = nn.ModuleList(
            nn.ModuleList((PerceiverAttention(width, compressor), _feed_forward(width, compressor.ff)))
            for _ in range(compressor.depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, media: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compress.

        Args:
            media: (B, m, H) auxiliary tokens.
            valid: (B, m) bool, which of them count; None: all, padding included, as published.

        Returns:
            (B, latents, H).
        """
        batch = media.shape[0]
        latents = self.latents.to(media.dtype).expand(batch, -1, -1)
        visible = None
        if valid is not None:
            own = torch.ones(batch, latents.shape[1], dtype=torch.bool, device=media.device)
            visible = torch.cat((valid, own), dim=1)[:, None, None, :]
        for layer in self.layers:
            attention, feed_forward = layer.children()
            latents = latents + attention(media, latents, visible)
            latents = latents + feed_forward(latents)
        out: Tensor = self.norm(latents)
        return out


def _feed_forward(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, hidden, bias=False),
        nn.GELU(),
        nn.Linear(hidden, width, bias=False),
    )
