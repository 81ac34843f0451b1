"""Lets a model in this process read crayon maps before it answers: the second eye of an evaluation without a gateway.

The features of a map take image positions at the head of the first user turn, as in training
(:mod:`llm_server.training.image_packing`), and the low-rank branches are added there while the prompt is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from llm_server.models.crayon import CrayonSwitches
from llm_server.models.crayon_hooks import CrayonHooks, crayon_rows, put_tokens
from llm_server.models.crayon_prompt import CrayonPrompt
from llm_server.models.image_rows import ImageRows
from llm_server.training.image_packing import image_place
from llm_server.training.packing import Tokenizer
from llm_server.training.scene_maps import Maps


class CrayonReader:
    """A crayon prompt and where it enters ``model``.

    Args:
        model: a causal language model, with or without peft adapters.
        crayon: made for it.
        switches: which query tables take part; with neither there are no image positions.

    Raises:
        CrayonMismatch: model and crayon prompt do not belong together.
    """

    def __init__(self, model: Any, crayon: CrayonPrompt, switches: CrayonSwitches | None = None) -> None:
        self._hooks = CrayonHooks(model, crayon)
        self._crayon = crayon
        self._switches = switches or CrayonSwitches()

    @property
    def positions(self) -> int:
        """Image positions of a prompt."""
        on = self._switches.semantic or self._switches.numbering
        return self._crayon.shape.tokens if on else 0

    def place(self, tokenizer: Tokenizer) -> int:
        """Tokens of a prompt before its image positions."""
        return image_place(tokenizer)

    def rows(self, image: torch.Tensor, maps: Sequence[Maps]) -> ImageRows | None:
        """What enters at the positions marked in ``image`` (B, L) bool, for one map each prompt.

        Raises:
            ValueError: there are not as many maps as prompts, or they do not fit the grid.
        """
        if len(maps) != len(image):
            raise ValueError(f"{len(maps)} maps for {len(image)} prompts")
        if not self.positions:
            return None
        classes, numbers = (
            torch.from_numpy(np.stack([getattr(one, which).reshape(-1) for one in maps]).astype(np.int64))
            for which in ("classes", "numbers")
        )
        return crayon_rows(image, self._crayon.features(classes, numbers, switches=self._switches))

    def embeddings(self, tokens: torch.Tensor, rows: ImageRows | None) -> torch.Tensor:
        """Token embeddings (B, L, H) with the features at their positions."""
        return put_tokens(tokens, rows)

    def within(self, rows: ImageRows | None) -> AbstractContextManager[None]:
        """The low-rank branches take part in what is computed within."""
        return self._hooks.applied(rows)
