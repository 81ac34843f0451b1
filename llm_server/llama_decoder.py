"""A Llama's forward pass over rows of tokens, with adapters per row and keys and values in blocks.

The weights and their meaning are those of transformers' LlamaForCausalLM (tested against it); what differs is that
everything is done at once that can be: products that share their input, all adapters of all rows, queries and keys in
one rotation. A step on a CPU is bound by reading the weights, and by how many calls it makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from llm_server.adapter_set import GROUPS, AdapterSet, Factors
from llm_server.crayon_layers import CrayonEntry
from llm_server.kv_store import KvStore
from llm_server.lora_stack import LoraStack
from llm_server.projection import PackedProjection, Projection, packable, projection


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the tokens of one pass stand, and what they see.

    ``positions`` (N,) int64; ``slots`` (N,) int64 is where their keys and values go. The N tokens are ``rows`` rows of
    equally many; row r sees the ``length`` first positions of its table (``blocks``: (rows * blocks,) int64, or the
    first of blocks that follow one another, for one row) as far as ``mask`` lets it: (rows, 1, queries, length),
    additive, queries in groups as :meth:`LlamaDecoder._attend` asks them; None for all.
    """

    positions: Tensor
    slots: Tensor
    rows: int
    length: int
    blocks: Tensor | int
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: Tensor
    mlp_norm: Tensor
    products: tuple[Projection, ...]


class LlamaDecoder:
    """The decoder of ``adapters.model``. Makes the most of the device: ``pack`` may take the model's weights away."""

    def __init__(self, adapters: AdapterSet, *, positions: int, pack: bool = True) -> None:
        """``positions`` is how many a sequence may have. Raises ValueError for a model it would not compute right."""
        model: Any = adapters.model
        config = model.config
        _check(config)
        self._stacks = adapters.stacks
        self.heads = int(config.num_attention_heads)
        self.key_value_heads = int(config.num_key_value_heads)
        self.width = int(getattr(config, "head_dim", None) or config.hidden_size // self.heads)
        #: Query heads that share a key-value head.
        self.shared = self.heads // self.key_value_heads
        self._eps = float(config.rms_norm_eps)
        decoder = model.model
        self._embedding: Tensor = decoder.embed_tokens.weight.detach()
        self._norm: Tensor = decoder.norm.weight.detach()
        head: Tensor = model.lm_head.weight.detach()
        # The head is most often the embedding: it is laid out for the product beside, never in place of it.
        self._head: Projection = (
            PackedProjection([head]) if pack and packable(head) else lambda x: functional.linear(x, head)
        )
        with torch.inference_mode():
            places = torch.arange(positions, device=self._embedding.device)[None]
            cosine, sine = decoder.rotary_emb(self._embedding[:1, None], places)
        half = self.width // 2
        self._cosine: Tensor = cosine[0].contiguous()
        # With a half turn of the head in place of (-second, first): the sign goes to the sine.
        self._sine: Tensor = torch.cat((-sine[0][:, :half], sine[0][:, half:]), dim=-1).contiguous()
        self._layers = [
            _Layer(
                layer.input_layernorm.weight.detach(),
                layer.post_attention_layernorm.weight.detach(),
                tuple(
                    projection([layer.get_submodule(name) for name in group], pack=pack) for group in GROUPS
                ),
            )
            for layer in decoder.layers
        ]

    def hidden(
        self,
        tokens: Tensor,
        at: Placement,
        factors: Factors | None,
        store: KvStore,
        crayon: CrayonEntry | None = None,
    ) -> Tensor:
        """States (N, width of the model) after the last layer and norm. ``tokens`` (N,) int64.

        ``crayon`` is what enters at image positions; None in decode, which it costs nothing.
        """
        x = functional.embedding(tokens, self._embedding)
        if crayon is not None:
            x = crayon.put(x)
        cosine, sine = self._cosine[at.positions][:, None], self._sine[at.positions][:, None]
        for number, layer in enumerate(self._layers):
            attention, output, gate_up, down = layer.products
            to_attention, to_output, to_gate_up, to_down = self._stacks[number]
            normed = functional.rms_norm(x, x.shape[-1:], layer.attention_norm, self._eps)
            projected = _product(attention, to_attention, normed, factors)
            if crayon is not None:
                projected = crayon.add(number, 0, projected)
            seen = self._attend(number, projected, cosine, sine, at, store)
            out = _product(output, to_output, seen, factors)
            if crayon is not None:
                out = crayon.add(number, 1, out)
            x = out.add_(x)
            normed = functional.rms_norm(x, x.shape[-1:], layer.mlp_norm, self._eps)
            both = _product(gate_up, to_gate_up, normed, factors)
            if crayon is not None:
                both = crayon.add(number, 2, both)
            middle = both.shape[1] // 2
            gated = functional.silu(both[:, :middle]).mul_(both[:, middle:])
            out = _product(down, to_down, gated, factors)
            if crayon is not None:
                out = crayon.add(number, 3, out)
            x = out.add_(x)
        return functional.rms_norm(x, x.shape[-1:], self._norm, self._eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, width of the model) to (N, V)."""
        return self._head(hidden)

    def _attend(
        self, number: int, projected: Tensor, cosine: Tensor, sine: Tensor, at: Placement, store: KvStore
    ) -> Tensor:
        """Rotate, store, and look: (N, queries + keys + values) to (N, heads * width)."""
        count, heads, groups, width = projected.shape[0], self.heads, self.key_value_heads, self.width
        turned = projected[:, : (heads + groups) * width].view(count, heads + groups, width)
        rolled = turned.roll(width // 2, -1)
        turned.mul_(cosine).addcmul_(rolled, sine)
        store.write(number, at.slots, projected[:, heads * width :])
        keys, values = store.read(number, at.blocks, at.rows, at.length)
        # The query heads that share a key head are asked as so many queries of that head: nothing is repeated.
        tokens, shared = count // at.rows, self.shared
        queries = projected[:, : heads * width].view(at.rows, tokens, groups, shared, width)
        queries = queries.permute(0, 2, 3, 1, 4).reshape(at.rows, groups, shared * tokens, width)
        seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=at.mask)
        seen = seen.view(at.rows, groups, shared, tokens, width).permute(0, 3, 1, 2, 4)
        return seen.reshape(count, heads * width)


def _product(product: Projection, stack: LoraStack, x: Tensor, factors: Factors | None) -> Tensor:
    out = product(x)
    return out if factors is None else stack.add_to(out, x, factors.by_layers[stack.layers])


def _check(config: Any) -> None:
    """Raises ValueError for what is not computed here."""
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(f"rotary positions of type {kind!r} are not served")
    if config.hidden_act != "silu":
        raise ValueError(f"the activation {config.hidden_act!r} is not served")
