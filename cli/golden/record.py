"""Keeps count of golden cases: how many there are, how many are met exactly, and why the others are not."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gateway.reference import ReferenceFailure
from llm_server.prompts.colour_map import PaletteRangeError


@dataclass(frozen=True)
class FailedCase:
    """A golden case that is not met: its name (`file.section.case`) and every difference found."""

    name: str
    reason: str


@dataclass(frozen=True)
class ParityReport:
    """`exact` of `cases` golden cases are met exactly; the others are listed."""

    cases: int
    exact: int
    failed: tuple[FailedCase, ...]


@dataclass
class Case:
    """Differences between what a golden case says and what the project says."""

    differences: list[str] = field(default_factory=list)
    compared: int = 0

    def equal(self, what: str, ours: Any, golden: Any) -> None:
        """Note a difference unless `ours` equals `golden`, type for type (1 is not 1.0, a list is not a tuple)."""
        self.compared += 1
        if type(ours) is not type(golden) or ours != golden:
            self.differences.append(f"{what}: {_shortened(ours)} is not {_shortened(golden)}")

    def holds(self, what: str, condition: bool) -> None:
        """Note a difference unless `condition` holds."""
        self.compared += 1
        if not condition:
            self.differences.append(what)

    def fails_as(self, golden: str, attempt: Callable[[], object]) -> None:
        """Note a difference unless `attempt` raises our error for the exception `golden` of the published system."""
        self.compared += 1
        try:
            result = attempt()
        except (ReferenceFailure, PaletteRangeError) as error:
            if not _stands_for(error, golden):
                self.differences.append(f"raised {error!r}, not what stands for {golden}")
        else:
            self.differences.append(f"gave {_shortened(result)} where the published system raises {golden}")


class Record:
    """Runs golden cases and counts them."""

    def __init__(self) -> None:
        self._cases = 0
        self._failed: list[FailedCase] = []

    def case(self, name: str, compare: Callable[[Case], None]) -> None:
        """Run one case. One that raises, or that compares nothing, is not met: the report says so."""
        case = Case()
        self._cases += 1
        try:
            compare(case)
        except Exception as error:
            case.differences.append(f"{type(error).__name__}: {error}")
        if not case.compared and not case.differences:
            case.differences.append("nothing in it could be compared")
        if case.differences:
            self._failed.append(FailedCase(name, "; ".join(case.differences)))

    def unknown(self, name: str, parts: Iterable[str]) -> None:
        """Golden material that nothing compares counts as a case that is not met."""
        for part in parts:
            self.case(f"{name}.{part}", lambda case: case.holds("no comparison is known for it", False))

    def report(self) -> ParityReport:
        """What was found so far."""
        return ParityReport(self._cases, self._cases - len(self._failed), tuple(self._failed))


def _stands_for(error: BaseException, golden: str) -> bool:
    if isinstance(error, ReferenceFailure):
        return error.reference_error == golden
    published = getattr(builtins, golden, None)
    return isinstance(published, type) and isinstance(error, published)


def _shortened(value: object, limit: int = 160) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
