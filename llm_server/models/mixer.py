"""MoAI's mixer: image and language tokens each pass three attention experts, and a gate weighs what these say.

    image side:     attention to the auxiliary tokens, to the language tokens, to the image tokens
    language side:  attention to the auxiliary tokens, to the image tokens, to the language tokens

Sits between the attention norm and wqkv of a few decoder layers. It is not causal: every token of a prompt looks at
all of them, so a prompt is read in one pass; in decode it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm_server.models.dimensions import MixerDimensions
from llm_server.models.gates import BlendedGate, FixedGate, GateBias, GateOverrides, Side


@dataclass(frozen=True)
class Tokens:
    """The tokens of one side of a batch, gathered to the left and padded.

    ``index`` (B, n) int64 are columns of the batch, ``valid`` (B, n) bool tells tokens from padding.
    """

    index: Tensor
    valid: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> Tokens:
        """The columns where ``mask`` (B, T) bool is set, in order."""
        counts = mask.sum(dim=1)
        longest = int(counts.max()) if mask.numel() else 0
        index = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)[:, :longest]
        valid = torch.arange(longest, device=mask.device)[None] < counts[:, None]
        return cls(index, valid)

    def gather(self, states: Tensor) -> Tensor:
        """(B, T, H) -> (B, n, H); padding holds some other token's states."""
        return states.gather(1, self.index[..., None].expand(-1, -1, states.shape[-1]))

    def scatter(self, mixed: Tensor, states: Tensor) -> Tensor:
        """``states`` (B, T, H) with the tokens replaced by ``mixed`` (B, n, H); padding changes nothing."""
        new = states.clone()
        rows, slots = self.valid.nonzero(as_tuple=True)
        new[rows, self.index[rows, slots]] = mixed[rows, slots].to(states.dtype)
        return new


@dataclass
class Mixing:
    """What mixers need of a batch of prompts, and where they leave what their gates said.

    Args:
        auxiliary: (B, latents, H) compressed auxiliary tokens.
        image: image tokens.
        language: all other tokens, the system line included, padding not.
        overrides: of each request of the batch; an empty sequence for none.
        gate_dtype: type of the gates' softmax.
        gates: filled by the mixers: per layer and side (B, n, 3) weights as they were used.
    """

    auxiliary: Tensor
    image: Tokens
    language: Tokens
    overrides: Sequence[GateOverrides | None] = ()
    gate_dtype: torch.dtype = torch.float32
    gates: dict[tuple[int, Side], Tensor] = field(default_factory=dict)

    def tokens(self, side: Side) -> Tokens:
        """The tokens of one side."""
        return self.image if side == "image" else self.language

    def mean_gates(self) -> dict[tuple[int, Side], Tensor]:
        """Weights per layer and side, averaged over the tokens of each request: (B, 3) float32, 0 without tokens."""
        means = {}
        for (layer, side), weights in self.gates.items():
            valid = self.tokens(side).valid[..., None].float()
            means[layer, side] = (weights.float() * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
        return means


class Expert(nn.Module):
    """Multi-head attention through a bottleneck: each of q, k, v, o is two linear layers and a GELU."""

    def __init__(self, width: int, rank: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.linear_q = _bottleneck(width, rank)
        self.linear_k = _bottleneck(width, rank)
        self.linear_v = _bottleneck(width, rank)
        self.linear_o = _bottleneck(width, rank)

    def forward(self, asking: Tensor, told: Tensor, valid: Tensor | None) -> Tensor:
        """(B, n, H) asks (B, m, H), of which ``valid`` (B, m) bool count (all, if None): (B, n, H), with residual.

        Who has nobody to ask keeps its states.
        """
        queries, keys, values = (
            self._split(linear(states))
            for linear, states in ((self.linear_q, asking), (self.linear_k, told), (self.linear_v, told))
        )
        mask = None if valid is None else valid[:, None, None, :]
        heard = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        if mask is not None:
            heard = torch.where(mask.any(dim=-1, keepdim=True), heard, torch.zeros_like(heard))
        out: Tensor = asking + self.linear_o(heard.transpose(1, 2).flatten(2))
        return out

    def _split(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self._heads, -1).transpose(1, 2)


class Mixer(nn.Module):
    """The six experts and two gates of one decoder layer."""

    def __init__(self, layer: int, width: int, mixer: MixerDimensions) -> None:
        super().__init__()
        self._layer = layer

        def expert() -> Expert:
            return Expert(width, mixer.rank, mixer.heads)

        self.CA_img_aux, self.CA_img_lang, self.SA_img = expert(), expert(), expert()
        self.CA_lang_aux, self.CA_lang_img, self.SA_lang = expert(), expert(), expert()
        self.GA_img, self.GA_lang = nn.Linear(width, 3), nn.Linear(width, 3)

    def forward(self, states: Tensor, mixing: Mixing) -> Tensor:
        """Normed states (B, T, H) -> mixed states (B, T, H); positions on neither side stay as they are."""
        sides = {side: mixing.tokens(side).gather(states) for side in get_args(Side)}
        mixed = states
        for side, own in sides.items():
            if not own.shape[1]:
                continue
            other: Side = "language" if side == "image" else "image"
            to_aux, to_other, to_self, gate = self._parts(side)
            said = (
                to_aux(own, mixing.auxiliary.to(own.dtype), None),
                self._ask(to_other, own, sides[other], mixing.tokens(other).valid),
                to_self(own, own, mixing.tokens(side).valid),
            )
            weights = self._weights(gate(own), side, mixing)
            mixing.gates[self._layer, side] = weights
            # Published: float16 weights times experts of the states' type; the three need not sum to 1.
            total = sum(weights[..., number, None] * each for number, each in enumerate(said))
            mixed = mixing.tokens(side).scatter(torch.as_tensor(total), mixed)
        return mixed

    def _parts(self, side: Side) -> tuple[Expert, Expert, Expert, nn.Linear]:
        if side == "image":
            return self.CA_img_aux, self.CA_img_lang, self.SA_img, self.GA_img
        return self.CA_lang_aux, self.CA_lang_img, self.SA_lang, self.GA_lang

    def _ask(self, expert: Expert, own: Tensor, other: Tensor, valid: Tensor) -> Tensor:
        if not other.shape[1]:
            return own
        out: Tensor = expert(own, other, valid)
        return out

    def _weights(self, logits: Tensor, side: Side, mixing: Mixing) -> Tensor:
        """(B, n, 3) gate weights in the gates' type, overrides applied row by row."""
        weights = torch.softmax(logits.to(mixing.gate_dtype), dim=-1)
        for row, overrides in enumerate(mixing.overrides):
            gate = None if overrides is None else overrides.of(self._layer, side)
            if isinstance(gate, FixedGate):
                weights[row] = weights.new_tensor(gate.weights)
            elif isinstance(gate, BlendedGate):
                weights[row] = weights[row] * (1 - gate.share) + weights.new_tensor(gate.weights) * gate.share
            elif isinstance(gate, GateBias):
                biased = logits[row].float() + torch.tensor(gate.logits, device=logits.device)
                weights[row] = torch.softmax(biased.to(mixing.gate_dtype), dim=-1)
        return weights


def _bottleneck(width: int, rank: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False), nn.GELU())
