"""Packed sequences with a picture: image positions at the head of the first user turn, in the prefix of all branches.

    system line, user turn begins | image positions | what was seen in words | question and answer | ...

For a language model without a vision tower the ids there are a placeholder whose embedding the crayon features replace.
Also packs a conversation, whose turns follow one another instead of branching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from llm_server.prompts.chatml import END, START
from llm_server.training.packing import IGNORED, Batch, Packed, Tokenizer, collate, pack, split_prompt
from llm_server.training.scene_maps import Maps

PLACEHOLDER: Final = 0


@dataclass(frozen=True)
class ImagePacked:
    """A packed sequence, the maps of its picture if it has one, and the position where its image positions begin."""

    packed: Packed
    maps: Maps | None = None
    image_start: int = 0

    def __len__(self) -> int:
        return len(self.packed)


@dataclass(frozen=True)
class ImageBatch:
    """``text`` as :class:`Batch`; ``image`` (B, L) bool; ``with_crayon`` (B,) bool; ``classes`` and ``numbers``
    (K, N) int64 of the K sequences that have a picture, in their order."""

    text: Batch
    image: torch.Tensor
    with_crayon: torch.Tensor
    classes: torch.Tensor
    numbers: torch.Tensor


def image_place(tokenizer: Tokenizer) -> int:
    """Tokens of a prompt before its image positions: the system line and the head of the user turn."""
    head = split_prompt("", "?")[0]
    return len(tokenizer.encode(head, add_special_tokens=False))


def with_image(packed: Packed, maps: Maps | None, place: int) -> ImagePacked:
    """Puts the positions of a picture into the prefix at ``place``; without maps there are none."""
    if maps is None:
        return ImagePacked(packed)
    n = maps.classes.size
    if place > len(packed) or any(packed.branches[:place]):
        raise ValueError(f"position {place} is not in the prefix")
    moved = tuple(p + n if i >= place else p for i, p in enumerate(packed.positions))
    return ImagePacked(
        Packed(
            packed.ids[:place] + (PLACEHOLDER,) * n + packed.ids[place:],
            moved[:place] + tuple(range(place, place + n)) + moved[place:],
            packed.branches[:place] + (0,) * n + packed.branches[place:],
            packed.targets[:place] + (IGNORED,) * n + packed.targets[place:],
            packed.weights[:place] + (0.0,) * n + packed.weights[place:],
        ),
        maps,
        place,
    )


def without_image(one: ImagePacked) -> ImagePacked:
    """The sequence without its picture: the opposite of :func:`with_image`."""
    if one.maps is None:
        return one
    start, n, p = one.image_start, one.maps.classes.size, one.packed
    after = start + n
    return ImagePacked(
        Packed(
            p.ids[:start] + p.ids[after:],
            p.positions[:start] + tuple(at - n for at in p.positions[after:]),
            p.branches[:start] + p.branches[after:],
            p.targets[:start] + p.targets[after:],
            p.weights[:start] + p.weights[after:],
        )
    )


def pack_conversation(
    tokenizer: Tokenizer, seen: str, turns: Sequence[tuple[str, str]], *, max_tokens: int
) -> Packed:
    """Packs turns that follow one another, as the served prompt would hold them; the first that does not fit ends it.

    Raises:
        ValueError: there is no turn, or not one fits.
    """
    if not turns:
        raise ValueError("no turn to pack")
    first = pack(tokenizer, seen, turns[:1], max_tokens=max_tokens)
    ids, targets, weights = list(first.ids), list(first.targets), list(first.weights)
    for question, answer in turns[1:]:
        ask = f"\n{START}user\n{question}{END}\n{START}assistant\n"
        asked = tokenizer.encode(ask, add_special_tokens=False)
        reply = tokenizer.encode(f"{answer}{END}", add_special_tokens=False)
        if len(ids) + len(asked) + len(reply) > max_tokens:
            break
        ids += asked + reply
        targets += [IGNORED] * (len(asked) - 1) + reply + [IGNORED]
        weights += [0.0] * (len(asked) - 1) + [len(reply) ** -0.5] * len(reply) + [0.0]
    head = first.branches.index(1)
    branches = first.branches[:head] + (1,) * (len(ids) - head)
    return Packed(tuple(ids), tuple(range(len(ids))), branches, tuple(targets), tuple(weights))


def collate_images(sequences: Sequence[ImagePacked], *, pad_id: int) -> ImageBatch:
    """Pads sequences to one length; those with and without a picture may be mixed."""
    text = collate([one.packed for one in sequences], pad_id=pad_id)
    image = torch.zeros(text.input_ids.shape, dtype=torch.bool)
    seen = [one.maps for one in sequences if one.maps is not None]
    for row, one in enumerate(sequences):
        if one.maps is not None:
            image[row, one.image_start : one.image_start + one.maps.classes.size] = True
    return ImageBatch(
        text,
        image,
        torch.tensor([one.maps is not None for one in sequences]),
        _stacked([maps.classes for maps in seen]),
        _stacked([maps.numbers for maps in seen]),
    )


def _stacked(grids: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]) -> torch.Tensor:
    if not grids:
        return torch.empty((0, 0), dtype=torch.long)
    return torch.from_numpy(np.stack([grid.reshape(-1) for grid in grids]).astype(np.int64))
