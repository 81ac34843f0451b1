"""Scores by group and condition, with intervals: what tables, JSON and charts are made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llm_server.evaluation.harness.bootstrap import interval
from llm_server.evaluation.harness.example import Record


@dataclass(frozen=True)
class Cell:
    """The mean score of some answers, its interval, and how many they are."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def cell(scores: Sequence[float], pictures: Sequence[str], *, seed: int = 0) -> Cell:
    """The cell of these scores; `pictures` names the picture of each. Raises ValueError where there are none."""
    low, high = interval(scores, pictures, seed=seed)
    return Cell(sum(scores) / len(scores), low, high, len(scores))


@dataclass(frozen=True)
class Scored:
    """One score to be tabled: under which row and column it goes, and which picture it is about."""

    row: str
    column: str
    picture: str
    score: float


def table(scores: Iterable[Scored], *, seed: int = 0) -> dict[str, dict[str, Cell]]:
    """Cells by row, then column, both in the order of their first score."""
    gathered: dict[str, dict[str, list[Scored]]] = {}
    for one in scores:
        gathered.setdefault(one.row, {}).setdefault(one.column, []).append(one)
    return {
        row: {
            column: cell([one.score for one in found], [one.picture for one in found], seed=seed)
            for column, found in columns.items()
        }
        for row, columns in gathered.items()
    }


def scored(records: Iterable[Record]) -> list[Scored]:
    """Records as they are tabled: group by condition."""
    return [Scored(record.group, record.condition, record.picture, record.score) for record in records]
