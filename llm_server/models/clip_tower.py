"""The CLIP vision tower (ViT-L/14-336 in the released models), with its position table stretched to a larger picture.

Features are the last hidden states without the class token; the tower's final norm is in the checkpoints but not used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm_server.models.dimensions import VisionDimensions


class _Embeddings(nn.Module):
    def __init__(self, vision: VisionDimensions) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(vision.width))
        self.patch_embedding = nn.Conv2d(3, vision.width, vision.patch, stride=vision.patch, bias=False)
        self.position_embedding = nn.Embedding(1 + vision.tokens, vision.width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        out: Tensor = torch.cat((first, patches), dim=1) + self.position_embedding.weight
        return out


class _Attention(nn.Module):
    def __init__(self, vision: VisionDimensions) -> None:
        super().__init__()
        self._heads = vision.heads
        self.q_proj = nn.Linear(vision.width, vision.width)
        self.k_proj = nn.Linear(vision.width, vision.width)
        self.v_proj = nn.Linear(vision.width, vision.width)
        self.out_proj = nn.Linear(vision.width, vision.width)

    def forward(self, states: Tensor) -> Tensor:
        queries, keys, values = (
            projection(states).view(*states.shape[:2], self._heads, -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class _FeedForward(nn.Module):
    def __init__(self, vision: VisionDimensions) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision.width, vision.intermediate)
        self.fc2 = nn.Linear(vision.intermediate, vision.width)

    def forward(self, states: Tensor) -> Tensor:
        inner = self.fc1(states)
        # "quick" GELU: what CLIP was trained with.
        out: Tensor = self.fc2(inner * torch.sigmoid(1.702 * inner))
        return out


class _Layer(nn.Module):
    def __init__(self, vision: VisionDimensions) -> None:
        super().__init__()
        self.self_attn = _Attention(vision)
        self.layer_norm1 = nn.LayerNorm(vision.width, eps=vision.norm_eps)
        self.mlp = _FeedForward(vision)
        self.layer_norm2 = nn.LayerNorm(vision.width, eps=vision.norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.self_attn(self.layer_norm1(states))
        out: Tensor = states + self.mlp(self.layer_norm2(states))
        return out


class _Encoder(nn.Module):
    def __init__(self, vision: VisionDimensions) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(vision) for _ in range(vision.layers))


class ClipTower(nn.Module):
    """A picture's patches as features; module names are those of `transformers`' CLIPVisionTransformer."""

    def __init__(self, vision: VisionDimensions) -> None:
        super().__init__()
        self.embeddings = _Embeddings(vision)
        self.pre_layrnorm = nn.LayerNorm(vision.width, eps=vision.norm_eps)
        self.encoder = _Encoder(vision)
        self.post_layernorm = nn.LayerNorm(vision.width, eps=vision.norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, side, side) -> features (B, tokens, width), row by row from the upper left."""
        states = self.pre_layrnorm(self.embeddings(pixels))
        for layer in self.encoder.layers:
            states = layer(states)
        out: Tensor = states[:, 1:]
        return out
