"""From per-step character probabilities to a string: greedy CTC decoding.

Connectionist temporal classification (Graves et al. 2006) emits one class a step, class 0 being "blank".
The greedy reading merges equal neighbours and drops blanks, so that a doubled letter needs a blank between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLANK = 0


@dataclass(frozen=True)
class Letter:
    """One character, its probability, and the part of the line where it was seen: 0 is its beginning, 1 its end."""

    text: str
    confidence: float
    start: float
    end: float


@dataclass(frozen=True)
class Reading:
    """What one crop says. `confidence` is the mean probability of the kept characters; 0 if there are none."""

    text: str
    confidence: float
    letters: tuple[Letter, ...] = ()


@dataclass(frozen=True)
class Steps:
    """The best class of each step, (steps,) int, and its probability: all of a crop's output that reading needs."""

    classes: NDArray[np.intp]
    scores: NDArray[np.floating[Any]]


def best_classes(probabilities: NDArray[np.floating[Any]], count: int) -> list[Steps]:
    """`probabilities`: (batch, steps, classes), each row summing to 1 over classes. One `Steps` a crop; they no longer
    hold on to the whole. Raises ValueError when the number of classes is not `count`, the size of the charset.
    """
    if probabilities.ndim != 3 or probabilities.shape[2] != count:
        raise ValueError(f"shape {probabilities.shape} does not fit a charset of {count}")
    classes = probabilities.argmax(axis=2)
    best = np.take_along_axis(probabilities, classes[..., None], axis=2)[..., 0]
    return [Steps(row, score) for row, score in zip(classes, best, strict=True)]


def decode(steps: Steps, charset: Sequence[str], *, filled: float = 1.0) -> Reading:
    """Read one crop. `charset[k]` is the text of class k; class 0 is blank and never printed.

    `filled`: the share of the steps that the crop itself took, the rest being padding.
    """
    classes, scores = steps.classes, steps.scores
    keep = classes != BLANK
    begins = keep.copy()
    begins[1:] &= classes[1:] != classes[:-1]
    first = np.flatnonzero(begins)
    if not len(first):
        return Reading(text="", confidence=0.0)
    # A character lasts as long as its class is repeated.
    changes = np.flatnonzero(np.append(classes[1:] != classes[:-1], True)) + 1
    last = changes[np.searchsorted(changes, first, side="right")]
    scale = 1.0 / (len(classes) * filled)
    letters = tuple(
        Letter(charset[index], min(float(score), 1.0), min(start * scale, 1.0), min(end * scale, 1.0))
        for index, score, start, end in zip(
            classes[first].tolist(), scores[first].tolist(), first.tolist(), last.tolist(), strict=True
        )
    )
    text = "".join(letter.text for letter in letters)
    # Float rounding can push a mean of ones a hair above 1, which the contract does not allow.
    return Reading(text, min(float(scores[first].mean(dtype=np.float64)), 1.0), letters)
