"""Keeps count of golden cases of a model: differences, the largest one in logits, tokens that are exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cli.golden.record import FailedCase


@dataclass
class CaseDifferences:
    """What was found in one case."""

    differences: list[str] = field(default_factory=list)
    max_logits: float = 0.0
    greedy_exact: bool = False
    beam_exact: bool = False
    compared: int = 0

    def within(self, name: str, ours: Tensor, golden: Tensor, tolerance: float) -> bool:
        """Compare two tensors of one shape; returns whether they agree. Number types may differ."""
        self.compared += 1
        if ours.shape != golden.shape:
            self.differences.append(f"{name} is {list(ours.shape)}, not {list(golden.shape)}")
            return False
        apart = distance(ours, golden)
        if not apart <= tolerance:
            self.differences.append(f"{name} differs by up to {apart:.3g}, more than {tolerance:g}")
        return apart <= tolerance

    def equal(self, name: str, ours: object, golden: object) -> None:
        """Compare two texts or numbers."""
        self.compared += 1
        if ours != golden:
            self.differences.append(f"{name} is {ours!r:.160}, not {golden!r:.160}")


def distance(ours: Tensor, golden: Tensor) -> float:
    """Largest absolute difference of two tensors of one shape; infinite if either has a NaN."""
    if not golden.numel():
        return 0.0
    apart = float((ours.double() - golden.double()).abs().max())
    return apart if torch.isfinite(torch.tensor(apart)) else float("inf")


@dataclass(frozen=True)
class ModelParityReport:
    """``tokens_exact`` and ``beam_exact`` count the cases whose greedy and beam tokens are the golden ones; ``failed``
    lists those with any difference beyond its tolerance."""

    cases: int
    max_abs_diff_logits: float
    tokens_exact: int
    beam_exact: int
    failed: tuple[FailedCase, ...]


class ModelRecord:
    """Runs the cases of a model and counts them."""

    def __init__(self) -> None:
        self._cases: list[CaseDifferences] = []
        self._failed: list[FailedCase] = []

    def case(self, name: str, compare: Callable[[CaseDifferences], None]) -> None:
        """Run one case. One that raises, or that compares nothing, fails."""
        case = CaseDifferences()
        self._cases.append(case)
        try:
            compare(case)
        except Exception as error:
            case.differences.append(f"{type(error).__name__}: {error}")
        if not case.compared and not case.differences:
            case.differences.append("nothing in it could be compared")
        if case.differences:
            self._failed.append(FailedCase(name, "; ".join(case.differences)))

    def fault(self, name: str, reason: str) -> None:
        """Something that no case holds, such as a stray tensor."""
        self._failed.append(FailedCase(name, reason))

    def report(self) -> ModelParityReport:
        """What was found."""
        return ModelParityReport(
            cases=len(self._cases),
            max_abs_diff_logits=max((case.max_logits for case in self._cases), default=0.0),
            tokens_exact=sum(case.greedy_exact for case in self._cases),
            beam_exact=sum(case.beam_exact for case in self._cases),
            failed=tuple(self._failed),
        )
