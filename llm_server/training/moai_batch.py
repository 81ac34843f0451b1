"""Examples as one batch of MoAI: prompts with their answers behind them, pixels, auxiliary text, what is learnt.

As in serving, mixers see the prompt alone: they are not causal, so an answer among what they mix would give
itself away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from llm_server.models.aux_tokens import AuxiliaryText, auxiliary_batch, auxiliary_text
from llm_server.models.dimensions import ModelDimensions
from llm_server.models.prompt_batch import PromptBatch, prompt_batch
from llm_server.prompts.colour_map import as_model_input, colour_map
from llm_server.prompts.internlm import TURN_END, prompt
from llm_server.prompts.pixels import normalise, squash_eval
from llm_server.training.moai_examples import MoaiExample
from llm_server.training.packing import IGNORED


class MoaiTokenizer(Protocol):
    """What is asked of the tokenizer: :class:`llm_server.prompts.intern_tokenizer.InternTokenizer` has it."""

    eos_id: int

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Ids of a text; control tokens spelled out in it become control ids."""
        ...


@dataclass(frozen=True)
class MoaiBatch:
    """B prompts with answers, L positions.

    ``prompts`` holds both; ``asked`` (B, L) bool is True in the prompts; ``targets`` (B, L) int64 has the token that a
    position is to predict, -100 where nothing is learnt. ``pixels`` and ``map_pixels`` (B, 3, S, S) float32 are
    normalised. ``digest`` is of all that is read.
    """

    prompts: PromptBatch
    asked: Tensor
    targets: Tensor
    pixels: Tensor
    map_pixels: Tensor
    text: AuxiliaryText
    digest: str


def answered(tokenizer: MoaiTokenizer, question: str, answer: str) -> tuple[list[int], list[int]]:
    """Ids of a prompt in the evaluation template, and of the answer with the end of its turn.

    The answer's ids are what follows the prompt's when both are encoded together, as they stand when it is generated;
    where the two run into one token, those of the answer by itself.
    """
    asked = tokenizer.encode(prompt(question, "eval"))
    whole = tokenizer.encode(prompt(question, "eval") + answer + TURN_END)
    if whole[: len(asked)] == asked:
        return asked, whole[len(asked) :]
    return asked, tokenizer.encode(answer + TURN_END, bos=False)


def collate_moai(
    examples: Sequence[MoaiExample], tokenizer: MoaiTokenizer, dimensions: ModelDimensions
) -> MoaiBatch:
    """Pads, opens up the image placeholder, normalises pixels.

    Raises:
        ValueError: segments are not of the model's picture size.
    """
    side = dimensions.vision.image_size
    digest = hashlib.sha256()
    pairs, texts, pixels, maps = [], [], [], []
    for one in examples:
        if one.segments.shape != (side, side):
            raise ValueError(f"segments of {one.segments.shape} for pictures of {side} x {side}")
        pairs.append(answered(tokenizer, one.question, one.answer))
        texts.append(tokenizer.encode(auxiliary_text(one.sentences)))
        pixels.append(np.asarray(normalise(squash_eval(one.picture, side)[None])))
        maps.append(np.asarray(normalise(as_model_input(colour_map(one.segments)))))
        digest.update(repr((pairs[-1], texts[-1])).encode())
        digest.update(pixels[-1].tobytes() + maps[-1].tobytes())
    prompts = prompt_batch(
        [asked + answer for asked, answer in pairs],
        image_id=dimensions.language.image_id,
        image_tokens=dimensions.vision.tokens,
        pad_id=tokenizer.eos_id,
    )
    asked, targets = prompts.valid.clone(), torch.full_like(prompts.ids, IGNORED)
    for row, (_, answer) in enumerate(pairs):
        asked[row, -len(answer) :] = False
        targets[row, -len(answer) - 1 : -1] = torch.tensor(answer)
    return MoaiBatch(
        prompts,
        asked,
        targets,
        torch.from_numpy(np.concatenate(pixels)),
        torch.from_numpy(np.concatenate(maps)),
        auxiliary_batch(texts, tokenizer.eos_id),
        digest.hexdigest(),
    )
