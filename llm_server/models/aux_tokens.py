"""MoAI's auxiliary tokens before they are compressed: the verbalised experts' words, then the colour map's tokens.

Pure but for torch; the words themselves are the gateway's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

Source: TypeAlias = Literal["regions", "detections", "relations", "text"]

#: Order of the sentences.
SOURCES: Final[tuple[Source, ...]] = ("regions", "detections", "relations", "text")


def auxiliary_text(sentences: Mapping[Source, str], without: Set[Source] = frozenset()) -> str:
    """The sentences joined by single spaces in the order of :data:`SOURCES`.

    A source that found nothing, is missing, or is left out on request (``without``) leaves its spaces: with none at
    all the text is three spaces, as published.
    """
    return " ".join("" if source in without else sentences.get(source, "") for source in SOURCES)


@dataclass(frozen=True)
class AuxiliaryText:
    """Token ids of B texts, padded on the left: ``ids`` (B, A) int64, ``valid`` (B, A) bool."""

    ids: Tensor
    valid: Tensor


def auxiliary_batch(texts: Sequence[Sequence[int]], pad_id: int) -> AuxiliaryText:
    """Pad token ids (with BOS) of several texts. Raises ValueError without texts."""
    if not texts:
        raise ValueError("a batch of auxiliary texts needs at least one")
    length = max(len(ids) for ids in texts)
    ids = torch.tensor([[pad_id] * (length - len(text)) + list(text) for text in texts], dtype=torch.long)
    lengths = torch.tensor([len(text) for text in texts])
    return AuxiliaryText(ids, torch.arange(length)[None] >= length - lengths[:, None])
