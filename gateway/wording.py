"""Which words a request gets: the form the caller chose, or the language model's, or the gateway's own."""

from __future__ import annotations

from dataclasses import dataclass

from polysight.gateway.v1 import polysight_pb2
from polysight.llm.v1 import generation_pb2

UNSET = generation_pb2.VERBALIZATION_FORM_UNSPECIFIED


@dataclass(frozen=True)
class Wording:
    """What to make of the results.

    Attributes:
        form: how to put them into words.
        crayon_grid: rows and columns of the crayon maps.
    """

    form: generation_pb2.VerbalizationForm
    crayon_grid: tuple[int, int]


def wording(
    options: polysight_pb2.PerceptionOptions, model: generation_pb2.ModelInfo | None, default: Wording
) -> Wording:
    """The caller's choice before the model's, and the model's before `default`; `model` is None if unknown."""
    form = options.verbalization_form or (model.verbalization_form if model is not None else UNSET)
    grid = default.crayon_grid
    if model is not None and model.uses_crayon and model.crayon_height and model.crayon_width:
        grid = (model.crayon_height, model.crayon_width)
    return Wording(form or default.form, grid)
