"""How the next token is chosen from one row of logits.

Pure numpy, so that the choice is the same whatever device computed the logits, and can be tested without a model.
The order of the filters is that of the usual reference (transformers): repetition penalty, temperature, top-k, top-p,
min-p.
Drawing is by inverse cumulative distribution over candidates sorted by probability, ties by token id, from a PCG64
stream seeded per request: the same logits and the same seed give the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# How many likely tokens are sorted first in search of the nucleus; widened when they do not hold enough mass.
_FIRST_NUCLEUS = 256


class NonFiniteLogitsError(ValueError):
    """The model produced NaN, +inf, or no finite logit at all: nothing meaningful can be chosen."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. Checked on construction; :class:`ValueError` names the field at fault first.

    ``temperature`` 0 is greedy; ``top_k`` 0 means all; ``top_p`` 1 means all; ``min_p`` leaves out what is less likely
    than that part of the likeliest, 0 nothing; ``repetition_penalty`` 1 changes nothing. ``beams`` above 1 searches
    for the likeliest answer in place of choosing token by token: with none of the others.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    min_p: float = 0.0
    beams: int = 1

    def __post_init__(self) -> None:
        rules = (
            ("temperature", self.temperature, 0 <= self.temperature < math.inf, "finite and at least 0"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k, self.top_k >= 0, "at least 0"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                0 < self.repetition_penalty < math.inf,
                "finite and above 0",
            ),
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 to 1"),
            (
                "beams",
                self.beams,
                self.beams == 1
                or (self.beams > 1 and self.temperature == 0 and self.repetition_penalty == 1),
                "at least 1, and 1 unless temperature is 0 and repetition_penalty 1",
            ),
        )
        for name, value, holds, rule in rules:
            if not holds:
                raise InvalidSamplingError(name, f"{name} is {value}; it must be {rule}")


class InvalidSamplingError(ValueError):
    """A sampling parameter outside of its range; ``field`` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Sampler:
    """Chooses the tokens of one sequence; remembers what was used, and where its random stream is."""

    def __init__(self, params: SamplingParams, *, seed: int, prompt: Iterable[int]) -> None:
        """``seed`` is any unsigned 64-bit number. ``prompt`` ids count as used for the repetition penalty."""
        self._params = params
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._used: set[int] = set(prompt) if params.repetition_penalty != 1.0 else set()

    def choose(self, logits: NDArray[np.float32]) -> int:
        """The next token id from ``logits`` (V,) float32, which are left as they are.

        Raises :class:`NonFiniteLogitsError`. ``-inf`` marks a token that cannot be chosen.
        """
        top = logits.max()
        # max() passes NaN on, so that one look at it finds NaN, +inf and rows of -inf.
        if not np.isfinite(top):
            raise NonFiniteLogitsError(f"the largest of {logits.size} logits is {top}")
        scores = self._penalised(logits)
        if self._params.temperature == 0.0 or self._params.top_k == 1:
            token = int(scores.argmax())
        else:
            token = self._draw(scores)
        if self._params.repetition_penalty != 1.0:
            self._used.add(token)
        return token

    def _penalised(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._used:
            return logits
        scores = logits.copy()
        used = np.fromiter(self._used, dtype=np.int64, count=len(self._used))
        values = scores[used]
        penalty = np.float32(self._params.repetition_penalty)
        scores[used] = np.where(values > 0, values / penalty, values * penalty)
        return scores

    def _draw(self, scores: NDArray[np.float32]) -> int:
        # Shifting before dividing keeps a tiny temperature from overflowing.
        scaled = (scores.astype(np.float64) - float(scores.max())) / self._params.temperature
        k = self._params.top_k
        if 0 < k < scaled.size:
            candidates = _best(scaled, k)
            weights = np.exp(scaled[candidates])
            total = float(weights.sum())
        else:
            everything = np.exp(scaled)
            total = float(everything.sum())
            if self._params.top_p < 1.0:
                candidates = _nucleus(scaled, everything, self._params.top_p * total)
            else:
                candidates = np.argsort(-scaled, kind="stable")
            weights = everything[candidates]
        cumulative = weights.cumsum()
        if self._params.min_p > 0.0:
            # Sorted by weight: what is likely enough comes first. Of what top-p keeps, the likeliest is the same.
            likely = int(np.count_nonzero(weights >= self._params.min_p * weights[0]))
            cumulative = cumulative[:likely]
        if self._params.top_p < 1.0:
            # Keep every token before which the mass is still short of top_p: at least one.
            kept = int(np.searchsorted(cumulative, self._params.top_p * total, side="left")) + 1
            cumulative = cumulative[: min(kept, cumulative.size)]
        drawn = int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))
        # Rounding may land on the total, behind which there are only tokens that cannot be chosen.
        last = int(np.searchsorted(cumulative, cumulative[-1], side="left"))
        return int(candidates[min(drawn, last)])


def _best(values: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Indices of the ``k`` largest, largest first, ties by index (so that a tie at the border is no accident)."""
    threshold = np.partition(values, values.size - k)[values.size - k]
    indices = np.flatnonzero(values >= threshold)
    return indices[np.argsort(-values[indices], kind="stable")][:k]


def _nucleus(values: NDArray[np.float64], weights: NDArray[np.float64], mass: float) -> NDArray[np.int64]:
    """The likeliest indices, best first, that hold at least ``mass``: few are sorted where few suffice."""
    k = _FIRST_NUCLEUS
    while k < values.size:
        best = _best(values, k)
        if float(weights[best].sum()) >= mass:
            return best
        k *= 8
    return np.argsort(-values, kind="stable")
