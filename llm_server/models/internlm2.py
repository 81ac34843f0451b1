"""InternLM2's decoder (grouped-query attention, SwiGLU, RMSNorm) with partial LoRA in its linear layers.

Works on embeddings, so that image features can stand among them. Positions are given: the published code counts
columns, padding included; only differences matter. What MoAI adds to some layers comes in as `mixer` (see `mixer`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm_server.models.dimensions import CrayonDimensions, LanguageDimensions, MixerDimensions
from llm_server.models.image_rows import ImageRows, at
from llm_server.models.mixer import Mixer, Mixing
from llm_server.models.partial_lora import PartialLoraLinear
from llm_server.models.rotary import rotate, rotation


class KeyValueCache(Protocol):
    """Where keys and values of earlier positions are kept."""

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> tuple[Tensor, Tensor]:
        """Append keys (after rotation) and values (B, kv_heads, T, D); returns all of the layer's."""


class RMSNorm(nn.Module):
    """Root mean square normalisation, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self._eps = eps

    def forward(self, states: Tensor) -> Tensor:
        """(..., width) in any float type, and the same out."""
        wide = states.float()
        wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self._eps)
        return self.weight * wide.to(states.dtype)


class Attention(nn.Module):
    """Causal self-attention; in some of MoAI's layers its input goes through a mixer first."""

    def __init__(
        self,
        index: int,
        language: LanguageDimensions,
        crayon: CrayonDimensions | None,
        mixer: MixerDimensions | None,
    ) -> None:
        super().__init__()
        self._index = index
        self._heads, self._kv_heads, self._width = language.heads, language.kv_heads, language.head_width
        packed = (language.heads + 2 * language.kv_heads) * language.head_width
        rank, scale = language.lora_rank, language.lora_scale
        self.wqkv = PartialLoraLinear(language.hidden, packed, rank, scale, crayon)
        self.wo = PartialLoraLinear(language.hidden, language.hidden, rank, scale, crayon)
        if mixer is not None and index in mixer.layers:
            self.mixer: Mixer | None = Mixer(index, language.hidden, mixer)
        else:
            self.mixer = None

    def forward(
        self,
        states: Tensor,
        turn: tuple[Tensor, Tensor],
        visible: Tensor | None,
        cache: KeyValueCache | None,
        image: ImageRows | None,
        mixing: Mixing | None,
    ) -> Tensor:
        """Normed states (B, T, H) -> attention output (B, T, H). Arguments as of :class:`InternLM2`."""
        if self.mixer is not None and mixing is not None:
            states = self.mixer(states, mixing)
        batch, length, _ = states.shape
        # Packed per key-value head: its query heads, then its key, then its value.
        packed = self.wqkv(states, image).view(batch, length, self._kv_heads, -1, self._width)
        queries = packed[..., :-2, :].reshape(batch, length, self._heads, self._width).transpose(1, 2)
        keys, values = packed[..., -2, :].transpose(1, 2), packed[..., -1, :].transpose(1, 2)
        queries, keys = rotate(queries, *turn), rotate(keys, *turn)
        if cache is not None:
            keys, values = cache.update(keys, values, self._index)
        if visible is None and 1 < length < keys.shape[2]:
            visible = causal(length, keys.shape[2], keys.device)
        mixed = functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=visible,
            is_causal=visible is None and length > 1,
            enable_gqa=self._heads != self._kv_heads,
        )
        out: Tensor = self.wo(mixed.transpose(1, 2).reshape(batch, length, -1), image)
        return out


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, language: LanguageDimensions, crayon: CrayonDimensions | None) -> None:
        super().__init__()
        rank, scale = language.lora_rank, language.lora_scale
        self.w1 = PartialLoraLinear(language.hidden, language.intermediate, rank, scale, crayon)
        self.w3 = PartialLoraLinear(language.hidden, language.intermediate, rank, scale, crayon)
        self.w2 = PartialLoraLinear(
            language.intermediate, language.hidden, rank, scale, crayon, crayon_applied=False
        )

    def forward(self, states: Tensor, image: ImageRows | None) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        out: Tensor = self.w2(functional.silu(self.w1(states, image)) * self.w3(states, image), image)
        return out


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each on normed states and added to the residual stream.

    A mixer's output feeds the attention only: the residual stream keeps the states from before it.
    """

    def __init__(
        self,
        index: int,
        language: LanguageDimensions,
        crayon: CrayonDimensions | None,
        mixer: MixerDimensions | None,
    ) -> None:
        super().__init__()
        self.attention = Attention(index, language, crayon, mixer)
        self.feed_forward = FeedForward(language, crayon)
        self.attention_norm = RMSNorm(language.hidden, language.rms_eps)
        self.ffn_norm = RMSNorm(language.hidden, language.rms_eps)

    def forward(
        self,
        states: Tensor,
        turn: tuple[Tensor, Tensor],
        visible: Tensor | None,
        cache: KeyValueCache | None,
        image: ImageRows | None,
        mixing: Mixing | None,
    ) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        states = states + self.attention(self.attention_norm(states), turn, visible, cache, image, mixing)
        out: Tensor = states + self.feed_forward(self.ffn_norm(states), image)
        return out


class InternLM2(nn.Module):
    """Embedding table, decoder layers, final norm."""

    def __init__(
        self,
        language: LanguageDimensions,
        crayon: CrayonDimensions | None = None,
        mixer: MixerDimensions | None = None,
    ) -> None:
        super().__init__()
        self._language = language
        self.tok_embeddings = nn.Embedding(language.vocabulary + 1, language.hidden)
        self.layers = nn.ModuleList(
            DecoderLayer(index, language, crayon, mixer) for index in range(language.layers)
        )
        self.norm = RMSNorm(language.hidden, language.rms_eps)

    @property
    def mixers(self) -> Mapping[int, Mixer]:
        """Mixers by the index of their layer."""
        layers = (layer for layer in self.layers if isinstance(layer, DecoderLayer))
        found = {index: layer.attention.mixer for index, layer in enumerate(layers)}
        return {index: mixer for index, mixer in found.items() if mixer is not None}

    def forward(
        self,
        states: Tensor,
        *,
        positions: Tensor,
        visible: Tensor | None = None,
        cache: KeyValueCache | None = None,
        image: ImageRows | None = None,
        mixing: Mixing | None = None,
    ) -> Tensor:
        """States after the final norm.

        Args:
            states: (B, T, H) embeddings.
            positions: (B, T) int64, below the model's ``max_positions`` (the caller's to check).
            visible: (B, 1, T, L) bool, which of the L positions in the cache (with these) a position attends to; at
                least one each. None: all up to itself.
            cache: where keys and values go; None keeps none.
            image: image rows of this pass; None in decode.
            mixing: what MoAI's mixers need, in the one pass that reads a prompt; None in decode.

        Returns:
            (B, T, H).
        """
        turn = rotation(positions, self._language.head_width, self._language.rope_theta, states.dtype)
        image = at(image, states.device)
        for layer in self.layers:
            states = layer(states, turn, visible, cache, image, mixing)
        out: Tensor = self.norm(states)
        return out


def causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """(1, 1, queries, keys) bool: the last ``queries`` of ``keys`` positions see those up to themselves."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]
