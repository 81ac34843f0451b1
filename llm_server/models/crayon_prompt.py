"""A crayon prompt for any causal language model: the learnt tables, their connector and the low-rank branches.

CoLLaVO (arXiv 2402.11248, section 3.1; its published code) sums a class query and a number query for each cell of a
panoptic grid, passes the sum through a connector of its own, and adds ``B' A' c`` to wqkv, wo, w1 and w3 of every
layer at the image positions. Here the same for a model of transformers, whose layers are given by name. Where there
is no vision tower nothing else says where a cell is, so a query for its row and one for its column join the sum.

This module holds parameters and arithmetic; where they enter a model is :mod:`llm_server.models.crayon_hooks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from llm_server.models.crayon import CrayonSwitches, checked_maps, crayon_embeddings
from llm_server.models.dimensions import CrayonDimensions
from llm_server.models.vision_language import connector

#: wqkv, wo, w1 and w3 as a Llama names them; never down_proj (w2).
TARGETS: Final[tuple[str, ...]] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
CLASSES: Final = 134
NUMBERS: Final = 21

#: Which query tables a crayon prompt was trained with: the classes' alone, or the numbers' as well.
Queries = Literal["semantic", "both"]

#: Names and (inputs, outputs) of the linear layers of a model that have a branch.
Outputs = Mapping[str, int]


@dataclass(frozen=True)
class CrayonShape:
    """All that has to be known to build a :class:`CrayonPrompt` for a model of width ``hidden``.

    Attributes:
        rows: rows of the grid.
        columns: columns of the grid.
        width: of a query.
        hidden: of the language model.
        rank: of a branch; 0 for none, so that the crayon prompt enters as tokens only.
        alpha: branches are scaled by alpha / rank.
        places: queries for row and column.
        targets: last names of the linear layers with a branch.
        classes: rows of the class table, 0 unknown.
        numbers: rows of the number table, 0 unknown.
    """

    rows: int
    columns: int
    width: int
    hidden: int
    rank: int
    alpha: float
    places: bool = True
    targets: tuple[str, ...] = TARGETS
    classes: int = CLASSES
    numbers: int = NUMBERS

    def __post_init__(self) -> None:
        if min(self.rows, self.columns, self.width, self.hidden, self.classes, self.numbers) < 1:
            raise ValueError(f"a crayon prompt cannot have these sizes: {self}")
        if self.rank < 0 or (self.rank and not self.targets):
            raise ValueError(f"a rank of {self.rank} does not go with the layers {self.targets}")

    @property
    def tokens(self) -> int:
        """Image positions of a picture."""
        return self.rows * self.columns

    @property
    def scale(self) -> float:
        """What branches are multiplied by."""
        return self.alpha / self.rank if self.rank else 0.0

    @property
    def dimensions(self) -> CrayonDimensions:
        """The tables, as :func:`llm_server.models.crayon.checked_maps` wants them."""
        return CrayonDimensions(self.classes, self.numbers, self.rank, self.scale)


class LowRankBranch(nn.Module):
    """``scale * B A c``; zero until trained, as B starts at zero."""

    def __init__(self, hidden: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, hidden))
        self.B = nn.Parameter(torch.zeros(outputs, rank))
        self._scale = scale
        nn.init.kaiming_uniform_(self.A, a=5**0.5)

    def forward(self, features: Tensor) -> Tensor:
        """(n, H) -> (n, outputs), in the type of ``features``: rounded once, as the adapters of a bfloat16 base are."""
        return (features @ self.A.to(features.dtype).t()) @ (self.B * self._scale).to(features.dtype).t()


class CrayonPrompt(nn.Module):
    """The parameters of a crayon prompt.

    Args:
        shape: sizes.
        outputs: width out of every linear layer that gets a branch, by the layer's full name in the model; see
            :func:`llm_server.models.crayon_hooks.branch_outputs`.
        queries: the tables that were trained; one that was not never takes part, whatever is asked for.
    """

    def __init__(self, shape: CrayonShape, outputs: Outputs, queries: Queries = "both") -> None:
        super().__init__()
        self.shape = shape
        self.queries: Queries = queries
        self.semantic = nn.Embedding(shape.classes, shape.width)
        self.numbering = nn.Embedding(shape.numbers, shape.width)
        if shape.places:
            self.row = nn.Embedding(shape.rows, shape.width)
            self.column = nn.Embedding(shape.columns, shape.width)
        self.projector = connector(shape.width, shape.hidden)
        # A parameter's name may not hold a dot.
        self.branches = nn.ModuleDict(
            {
                _key(name): LowRankBranch(shape.hidden, width, shape.rank, shape.scale)
                for name, width in (outputs.items() if shape.rank else ())
            }
        )

    def branch(self, layer: str) -> LowRankBranch:
        """The branch of a linear layer by its full name."""
        found = self.branches[_key(layer)]
        assert isinstance(found, LowRankBranch)
        return found

    @property
    def outputs(self) -> dict[str, int]:
        """Width out of every linear layer that has a branch, by the layer's full name."""
        names = [key.replace("/", ".") for key in self.branches]
        return {name: self.branch(name).B.shape[0] for name in names}

    def trained(self, switches: CrayonSwitches) -> CrayonSwitches:
        """``switches`` without the table that was not trained."""
        return replace(switches, numbering=switches.numbering and self.queries == "both")

    def features(
        self,
        classes: Tensor,
        numbers: Tensor,
        *,
        switches: CrayonSwitches | None = None,
        unknown_beyond: bool = True,
    ) -> Tensor | None:
        """Crayon features (B, N, H) of two maps (B, N), row by row; None with both switches off.

        With both switches off there is no crayon prompt at all: a prompt then has no image positions either. A table
        that was not trained is off whatever its switch says. A number
        beyond the table (the 21st person) is unknown in serving and an error with ``unknown_beyond`` false.

        Raises:
            CrayonMapError, CrayonIndexError: as :func:`llm_server.models.crayon.checked_maps`.
        """
        shape = self.shape
        classes, numbers = checked_maps(
            classes, numbers, shape.dimensions, shape.tokens, unknown_beyond=unknown_beyond
        )
        device = self.semantic.weight.device
        queries = crayon_embeddings(
            self.semantic,
            self.numbering,
            classes.to(device),
            numbers.to(device),
            self.trained(switches or CrayonSwitches()),
        )
        if queries is None:
            return None
        if shape.places:
            cells = torch.arange(shape.tokens, device=device)
            queries = queries + self.row(cells // shape.columns) + self.column(cells % shape.columns)
        features: Tensor = self.projector(queries)
        return features


def shape_from(config: Mapping[str, Any]) -> CrayonShape:
    """The shape written by ``dataclasses.asdict``; raises ValueError or TypeError for what is not one."""
    return CrayonShape(**{**config, "targets": tuple(config.get("targets", TARGETS))})


def _key(layer: str) -> str:
    return layer.replace(".", "/")
