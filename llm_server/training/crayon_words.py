"""Begins a crayon prompt at words: a cell of a dog reads like "dog" to the language model before anything is learnt.

Learnt prompts that begin at embeddings of fitting words learn sooner than random ones (Lester et al., 2021, arXiv
2104.08691, section 3.2). Here a cell begins at the sum of the embeddings of its class name, its number, and, weaker,
the words for its third of the picture. The sum is not looked up but fitted, tables and connector together, in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from llm_server.models.crayon import CrayonSwitches
from llm_server.models.crayon_prompt import CrayonPrompt
from llm_server.training.packing import Tokenizer
from llm_server.training.scene_maps import LabelIds

#: What stands for a cell that no object claims.
_NOTHING: Final = "nothing"
_ROWS: Final = ("top", "middle", "bottom")
_COLUMNS: Final = ("left", "middle", "right")
_PLACE_WEIGHT: Final = 0.4
_STEPS: Final = 400
_BATCH: Final = 64
_RATE: Final = 5e-3
#: Every third batch is fitted without numbers, as a crayon prompt of classes alone is read.
_WITHOUT_NUMBERS: Final = 3


def begin_at_words(
    crayon: CrayonPrompt,
    embedding: Tensor,
    tokenizer: Tokenizer,
    names: Sequence[str],
    *,
    seed: int,
    steps: int = _STEPS,
) -> float:
    """Fits tables and connector of ``crayon``, in place, to the embeddings of words; its branches are not touched.

    Args:
        crayon: fresh; on the device of ``embedding``.
        embedding: (vocabulary, hidden) input embeddings of the language model.
        tokenizer: of the language model.
        names: what a class is called in the sentences, by label id; row i + 1 of the class table is ``names[i]``.
        seed: of the cells that it is fitted on.
        steps: of the fit.

    Returns:
        Share of the words' variance that the fit leaves unexplained: 0 is perfect, 1 nothing.

    Raises:
        ValueError: the table has not one row more than there are names.
    """
    shape = crayon.shape
    if len(names) + 1 != shape.classes:
        raise ValueError(f"{len(names)} names do not fit a table of {shape.classes} classes")
    words = _Words(embedding, tokenizer)
    classes = words.of([_NOTHING, *names])
    numbers = words.of(["", *(str(number) for number in range(1, shape.numbers))])
    places = _PLACE_WEIGHT * _places(words, shape.rows, shape.columns) if shape.places else None
    rng = torch.Generator().manual_seed(seed)
    fitted = [p for name, p in crayon.named_parameters() if not name.startswith("branches.")]
    before = [p.requires_grad for p in fitted]
    for parameter in fitted:
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(fitted, lr=_RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    left = 1.0
    for step in range(steps):
        drawn = torch.randint(shape.classes, (_BATCH, shape.tokens), generator=rng)
        numbered = torch.randint(shape.numbers, (_BATCH, shape.tokens), generator=rng)
        with_numbers = step % _WITHOUT_NUMBERS != 0
        target = classes[drawn]
        if with_numbers:
            target = target + numbers[numbered]
        if places is not None:
            target = target + places
        features = crayon.features(drawn, numbered, switches=CrayonSwitches(numbering=with_numbers))
        assert features is not None  # classes take part
        loss = nn.functional.mse_loss(features, target) / target.var()
        optimiser.zero_grad()
        torch.autograd.backward([loss])
        optimiser.step()
        falling.step()
        left = float(loss.detach())
    for parameter, learns in zip(fitted, before, strict=True):
        parameter.requires_grad_(learns)
        parameter.grad = None
    return left


def names_by_id(label_ids: LabelIds) -> list[str]:
    """What each label id is called; the opposite of the table that scenes are painted with.

    Raises:
        KeyError: an id has no name.
    """
    names = {label: name for name, labels in label_ids.items() for label in labels}
    return [names[label] for label in range(len(names))]


class _Words:
    """Mean embeddings of words as they stand within a sentence."""

    def __init__(self, embedding: Tensor, tokenizer: Tokenizer) -> None:
        self._embedding = embedding.detach().float()
        self._tokenizer = tokenizer

    def of(self, words: Sequence[str]) -> Tensor:
        """(n, hidden); zeros for an empty word."""
        return torch.stack([self._one(word) for word in words])

    def _one(self, word: str) -> Tensor:
        if not word:
            return self._embedding.new_zeros(self._embedding.shape[1])
        ids = self._tokenizer.encode(f" {word}", add_special_tokens=False)
        return self._embedding[torch.tensor(ids, device=self._embedding.device)].mean(dim=0)


def _places(words: _Words, rows: int, columns: int) -> Tensor:
    """(rows * columns, hidden): the words for the third of the picture, down and across, that each cell lies in."""
    down, across = words.of(_ROWS), words.of(_COLUMNS)
    third_down = torch.tensor([3 * row // rows for row in range(rows)])
    third_across = torch.tensor([3 * column // columns for column in range(columns)])
    return (down[third_down][:, None] + across[third_across][None, :]).flatten(0, 1)
