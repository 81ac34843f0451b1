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
class Reading:
    """What one crop says. `confidence` is the mean probability of the kept characters; 0 if there are none."""

    text: str
    confidence: float


def decode(probabilities: NDArray[np.floating[Any]], charset: Sequence[str]) -> list[Reading]:
    """Read `probabilities` (batch, steps, classes), each row summing to 1 over classes.

    `charset[k]` is the text of class k; class 0 is blank and never printed. Raises ValueError when the number
    of classes is not the size of the charset.
    """
    if probabilities.ndim != 3 or probabilities.shape[2] != len(charset):
        raise ValueError(f"shape {probabilities.shape} does not fit a charset of {len(charset)}")
    classes = probabilities.argmax(axis=2)
    best = np.take_along_axis(probabilities, classes[..., None], axis=2)[..., 0]
    return [_decode_one(row, score, charset) for row, score in zip(classes, best, strict=True)]


def _decode_one(
    classes: NDArray[np.intp], scores: NDArray[np.floating[Any]], charset: Sequence[str]
) -> Reading:
    keep = classes != BLANK
    keep[1:] &= classes[1:] != classes[:-1]
    if not keep.any():
        return Reading(text="", confidence=0.0)
    text = "".join(charset[index] for index in classes[keep])
    # Float rounding can push a mean of ones a hair above 1, which the contract does not allow.
    return Reading(text=text, confidence=min(float(scores[keep].mean(dtype=np.float64)), 1.0))
