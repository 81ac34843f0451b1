"""What an answer has to look like, while it is written: which tokens may come next, and whether anything may.

A :class:`Constraint` belongs to one sequence and is told of each accepted token once, so that reading the sequence
again after a preemption changes nothing. The set of tokens that may follow is worked out on another thread as soon as
a token is known, beside the model's next step: nobody in the batch waits for a grammar that is quick, and all of them
only for what a slow one needs beyond a step. No grammar library is imported here.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Executor, Future
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

#: To be added to logits, one for each token: 0 where it may come next, -inf where not.
Bias = NDArray[np.float32]


class TokenMatcher(Protocol):
    """Where one answer is in its grammar. One caller at a time."""

    def bias(self) -> Bias:
        """What may come next: (tokens,), -inf for control tokens. Raises :class:`ConstraintFault`."""

    def advance(self, token: int) -> None:
        """``token`` was chosen. Raises :class:`ConstraintFault`."""

    @property
    def accepting(self) -> bool:
        """Whether the answer may end here."""

    @property
    def complete(self) -> bool:
        """Whether nothing can follow."""


class Constraint:
    """Holds one answer to its form."""

    def __init__(self, matcher: TokenMatcher, end_tokens: Collection[int], masks: Executor) -> None:
        """``end_tokens`` end an answer, and are allowed only where it may end. ``masks`` works out what may follow."""
        self._matcher = matcher
        self._end_tokens = sorted(end_tokens)
        self._masks = masks
        self._next: Future[Bias] = masks.submit(matcher.bias)

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of ``logits`` (V,) with ``-inf`` for every token that would break the form.

        Tokens beyond the grammar's vocabulary are padding and never allowed. Raises :class:`ConstraintFault`.
        """
        bias = self._next.result()
        known = min(bias.size, logits.size)
        masked = np.full_like(logits, -np.inf)
        np.add(logits[:known], bias[:known], out=masked[:known])
        masked[self._end_tokens] = logits[self._end_tokens] if self._matcher.accepting else -np.inf
        return masked

    def advance(self, token: int) -> bool:
        """``token``, no end token, was accepted; true if the answer is complete. Raises :class:`ConstraintFault`."""
        self._next.result()
        self._matcher.advance(token)
        if self._matcher.complete:
            return True
        self._next = self._masks.submit(self._matcher.bias)
        return False


class CompiledConstraint(Protocol):
    """A form that any number of answers can be held to."""

    def start(self, end_tokens: Collection[int]) -> Constraint:
        """For one answer, from its beginning."""


class ConstraintRefused(ValueError):
    """A schema or an expression that cannot be compiled; the message says why."""
