"""A crayon prompt laid out for :mod:`llm_server.llama_decoder`: its tokens, and what it adds to products.

Training enters the same parameters through hooks on the linear layers (:mod:`llm_server.models.crayon_hooks`); the
decoder computes several of those layers as one product, so that their branches are put beside one another here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm_server.adapter_set import GROUPS
from llm_server.models.crayon import CrayonSwitches
from llm_server.models.crayon_hooks import CrayonHooks
from llm_server.models.crayon_prompt import CrayonPrompt, LowRankBranch

#: The linear layers of one product: width out, and the branch of those that have one.
_Group = tuple[tuple[int, LowRankBranch | None], ...]


@dataclass(frozen=True, slots=True)
class CrayonEntry:
    """A crayon prompt in one pass over N tokens: ``index`` (n,) int64 are the image positions among them,
    ``features`` (n, H) stand there in place of embeddings."""

    layers: CrayonLayers
    index: Tensor
    features: Tensor

    def put(self, embeddings: Tensor) -> Tensor:
        """Embeddings (N, H) with the features in their places: a new tensor."""
        return embeddings.index_copy(0, self.index, self.features.to(embeddings.dtype))

    def add(self, layer: int, group: int, out: Tensor) -> Tensor:
        """``out`` (N, width) of a product, with what the branches say added in place."""
        added = self.layers.added(layer, group, self.features.to(out.dtype))
        return out if added is None else out.index_add_(0, self.index, added)


class CrayonLayers:
    """The crayon prompt of a model of Llama's layout."""

    def __init__(self, crayon: CrayonPrompt, model: Any) -> None:
        """Raises :class:`llm_server.models.crayon_hooks.CrayonMismatch` if it was made for another model."""
        CrayonHooks(
            model, crayon
        )  # looks whether they belong together, before the decoder takes weights away
        self.crayon = crayon.to(model.get_input_embeddings().weight.device)
        have = crayon.outputs
        self._groups: list[list[_Group]] = []
        for number in range(int(model.config.num_hidden_layers)):
            groups: list[_Group] = []
            for group in GROUPS:
                names = [f"model.layers.{number}.{name}" for name in group]
                widths = [int(model.get_submodule(name).out_features) for name in names]
                branches = [crayon.branch(name) if name in have else None for name in names]
                groups.append(tuple(zip(widths, branches, strict=True)))
            self._groups.append(groups)

    def features(
        self, classes: Sequence[int], numbers: Sequence[int], *, semantic: bool, numbering: bool
    ) -> Tensor:
        """Crayon features (N, H) of two maps, row by row. One switch at least is on."""
        features = self.crayon.features(
            torch.tensor([list(classes)]),
            torch.tensor([list(numbers)]),
            switches=CrayonSwitches(semantic, numbering),
        )
        assert features is not None  # a prompt without both switches has no image positions
        return features[0]

    def added(self, layer: int, group: int, features: Tensor) -> Tensor | None:
        """What the branches of one product add to its image rows: (n, width), or None if it has no branch."""
        parts = self._groups[layer][group]
        if all(branch is None for _, branch in parts):
            return None
        return torch.cat(
            [
                features.new_zeros(len(features), width) if branch is None else branch(features)
                for width, branch in parts
            ],
            dim=-1,
        )
