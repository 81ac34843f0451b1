"""CoLLaVO's crayon prompt: what is seen in each patch, and which one of its kind, as features beside the image tokens.

Two integer maps of the patch grid come in (class + 1, number within the class; 0 is unknown); each looks up a table of
learned queries, the sum goes through a connector of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm_server.models.dimensions import CrayonDimensions


class CrayonMapError(ValueError):
    """Crayon maps that do not fit the image or the tables."""


class CrayonIndexError(CrayonMapError, IndexError):
    """A class or number beyond its table."""


@dataclass(frozen=True)
class CrayonSwitches:
    """Which of the two query tables take part. With neither there is no crayon prompt at all."""

    semantic: bool = True
    numbering: bool = True


def checked_maps(
    classes: Tensor, numbers: Tensor, crayon: CrayonDimensions, tokens: int, *, unknown_beyond: bool
) -> tuple[Tensor, Tensor]:
    """Maps that the tables can be asked with.

    Args:
        classes: (B, N) integers, class + 1, 0 for unknown.
        numbers: (B, N) integers, number within the class from 1, 0 for unknown.
        crayon: sizes of the tables.
        tokens: N, image tokens of a picture.
        unknown_beyond: what a number beyond its table becomes: 0 if true, else an error, as published. A picture with
            more than 20 of a kind has such numbers.

    Returns:
        Both maps as int64.

    Raises:
        CrayonMapError: a map has another shape.
        CrayonIndexError: an index is below 0 or beyond its table.
    """
    for what, grid in (("class", classes), ("number", numbers)):
        if grid.ndim != 2 or grid.shape != classes.shape or grid.shape[1] != tokens:
            raise CrayonMapError(f"the {what} map is {tuple(grid.shape)}; it must be (B, {tokens})")
    classes, numbers = classes.long(), numbers.long()
    if unknown_beyond:
        numbers = torch.where(numbers >= crayon.numbers, torch.zeros_like(numbers), numbers)
    for what, grid, rows in (("class", classes, crayon.classes), ("number", numbers, crayon.numbers)):
        if grid.numel() and not 0 <= int(grid.min()) <= int(grid.max()) < rows:
            raise CrayonIndexError(
                f"the {what} map has values from {int(grid.min())} to {int(grid.max())}; the table has {rows} rows"
            )
    return classes, numbers


def crayon_embeddings(
    semantic: nn.Embedding,
    numbering: nn.Embedding,
    classes: Tensor,
    numbers: Tensor,
    switches: CrayonSwitches,
) -> Tensor | None:
    """Sum of the tables that take part, (B, N, width); None if none does."""
    parts: list[Tensor] = []
    if switches.semantic:
        parts.append(semantic(classes))
    if switches.numbering:
        parts.append(numbering(numbers))
    return torch.stack(parts).sum(dim=0) if parts else None
