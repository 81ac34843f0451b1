"""Beam search over rows of logits, as transformers has it (`early_stopping=False`, length penalty 1). Numpy alone.

Each step keeps, of the best continuations of all beams, the first ``width`` that do not end; those that end among the
first ``width`` become hypotheses, scored by their mean log-probability with the end counted. It is over once there are
``width`` hypotheses, the worst of which is no worse than the best continuation could still become.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Extension:
    """A beam of the next step: the beam it goes on from (its row in the last logits), and by which token."""

    parent: int
    token: int


class BeamSearch:
    """The beams of one request. ``tokens[i]`` is what beam ``i`` has written."""

    def __init__(self, width: int, end_tokens: Set[int], most: int) -> None:
        """``width`` beams, at least 1; ``most`` tokens of an answer, at least 1, the end counted."""
        self._width = width
        self._end = end_tokens
        self._most = most
        self.tokens: list[tuple[int, ...]] = [()]
        self._totals: NDArray[np.float64] = np.zeros(1)
        self._hypotheses: list[tuple[float, tuple[int, ...]]] = []

    def advance(self, logits: NDArray[np.float32]) -> list[Extension]:
        """Take the logits (beams, V) after each beam; returns the next beams, none if it is over.

        The first call has one row. Raises ValueError for rows without a finite maximum.
        """
        if not np.isfinite(logits.max(axis=1)).all():
            raise ValueError("the logits of a beam are not finite")
        scores = log_softmax(logits) + self._totals[:, None]
        vocabulary = scores.shape[1]
        wanted = min((1 + max(1, len(self._end))) * self._width, scores.size)
        flat = scores.ravel()
        places = np.argpartition(-flat, wanted - 1)[:wanted]
        places = places[np.lexsort((places, -flat[places]))]
        length = len(self.tokens[0]) + 1
        extensions: list[Extension] = []
        totals: list[float] = []
        for rank, place in enumerate(places):
            parent, token = divmod(int(place), vocabulary)
            total = float(flat[place])
            if token in self._end:
                if rank < self._width:
                    self._add(total / length, (*self.tokens[parent], token))
            elif len(extensions) < self._width and total > -np.inf:
                extensions.append(Extension(parent, token))
                totals.append(total)
        best = float(flat[places[0]])
        self.tokens = [(*self.tokens[one.parent], one.token) for one in extensions]
        self._totals = np.array(totals)
        full = len(self._hypotheses) == self._width
        settled = full and min(score for score, _ in self._hypotheses) >= best / length
        if settled:
            return []
        if length >= self._most or not extensions:
            for total, tokens in zip(totals, self.tokens, strict=True):
                self._add(total / length, tokens)
            return []
        return extensions

    def best(self) -> tuple[int, ...]:
        """The answer of the highest score, with its end token if it has one. Once :meth:`advance` said it is over."""
        return max(self._hypotheses, key=lambda one: one[0])[1]

    def _add(self, score: float, tokens: tuple[int, ...]) -> None:
        self._hypotheses.append((score, tokens))
        if len(self._hypotheses) > self._width:
            self._hypotheses.remove(min(self._hypotheses, key=lambda one: one[0]))


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities of each row (..., V)."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
