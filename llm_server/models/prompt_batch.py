"""Prompts of different lengths as one batch, padded on the left, each placeholder opened up to its image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_server.prompts.image_span import image_span


@dataclass(frozen=True)
class PromptBatch:
    """B prompts of up to L positions, on the CPU.

    ``ids`` (B, L) int64 hold the placeholder's id at every image position; ``valid`` (B, L) bool is False in the
    padding; ``image`` (B, L) bool is True at image positions. Padding stands on the left.
    """

    ids: Tensor
    valid: Tensor
    image: Tensor

    @property
    def language(self) -> Tensor:
        """(B, L) bool, True at text positions, the system line included."""
        return self.valid & ~self.image

    @property
    def with_image(self) -> Tensor:
        """(B,) bool, which prompts have an image."""
        return self.image.any(dim=1)

    @property
    def positions(self) -> Tensor:
        """(B, L) int64: the column, padding counted, as the published code has it."""
        return torch.arange(self.ids.shape[1]).expand_as(self.ids)

    @property
    def visible(self) -> Tensor | None:
        """(B, 1, L, L) bool: what a position attends to; None without padding, where it is all up to itself.

        Padding attends to itself, so that no row of the softmax is empty; nothing else attends to it.
        """
        if bool(self.valid.all()):
            return None
        length = self.ids.shape[1]
        own = torch.eye(length, dtype=torch.bool)
        return (torch.ones(length, length, dtype=torch.bool).tril() & self.valid[:, None, :] | own)[:, None]


def prompt_batch(
    prompts: Sequence[Sequence[int]], *, image_id: int, image_tokens: int, pad_id: int
) -> PromptBatch:
    """Pad and open up token ids.

    Args:
        prompts: ids of each prompt, with one placeholder or none.
        image_id: id of the placeholder.
        image_tokens: positions that it becomes.
        pad_id: id that stands in the padding; its embedding has no influence.

    Raises:
        ValueError: there are no prompts, or one is empty.
        ImagePlaceholderError: a prompt holds more than one placeholder.
    """
    if not prompts or not all(prompts):
        raise ValueError("a batch needs at least one prompt, and a prompt at least one token")
    opened = [_opened(ids, image_id, image_tokens) for ids in prompts]
    length = max(len(ids) for ids in opened)
    padding = [length - len(ids) for ids in opened]
    ids = torch.tensor([[pad_id] * pad + ids for pad, ids in zip(padding, opened, strict=True)])
    valid = torch.arange(length)[None] >= torch.tensor(padding)[:, None]
    return PromptBatch(ids, valid, valid & (ids == image_id))


def _opened(ids: Sequence[int], image_id: int, image_tokens: int) -> list[int]:
    if image_id not in ids:
        return list(ids)
    span = image_span(ids, image_id=image_id, image_tokens=image_tokens)
    return [*ids[: span.start], *[image_id] * image_tokens, *ids[span.start + 1 :]]
