"""What a benchmark is: files, questions, marks, figures. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_server.evaluation.harness.example import Example
from llm_server.evaluation.harness.runner import Mark

ONE_WORD = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
LETTER_CN = "请直接回答选项字母。"
MAX_NEW_TOKENS = 128


class BenchmarkDataError(ValueError):
    """The files of a benchmark are absent or malformed; the message says what is wanted and where it comes from."""


@dataclass(frozen=True)
class Answered:
    """An example with the answer it got and its mark."""

    example: Example
    answer: str
    mark: Mark


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark.

    Attributes:
        name: such as "mme", as the command takes it.
        title: as people write it.
        layout: what the data folder must hold, a line each.
        source: where the data comes from, in words.
        read: the questions of a data folder; OSError, KeyError, TypeError or ValueError where files are absent or
            malformed (`questions` puts them into words).
        mark: how good an answer is, by the published parser.
        figures: the benchmark's own figures, per cent or as it counts; the first is the one that is published.
        export: the answers as the external grader takes them, as (file name, text); None if it is graded here.
    """

    name: str
    title: str
    layout: tuple[str, ...]
    source: str
    read: Callable[[Path], list[Example]]
    mark: Callable[[Example, str], Mark]
    figures: Callable[[Sequence[Answered]], Mapping[str, float]]
    export: Callable[[Sequence[Answered]], tuple[str, str]] | None = None

    def questions(self, data: Path) -> list[Example]:
        """The questions of a data folder.

        Raises:
            BenchmarkDataError: the files are absent, malformed or empty.
        """
        try:
            examples = self.read(data)
        except (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise BenchmarkDataError(f"{self._wanted(data)}\n{type(error).__name__}: {error}") from error
        if not examples:
            raise BenchmarkDataError(f"{self._wanted(data)}\nThere is no question in them.")
        return examples

    def _wanted(self, data: Path) -> str:
        files = "\n".join(f"  {data}/{line}" for line in self.layout)
        return f"{self.title} wants these files:\n{files}\nThey come from {self.source}."


def mean_score(answered: Sequence[Answered]) -> float:
    """Mean mark in per cent; 0 where there are none."""
    return 100 * sum(one.mark.score for one in answered) / len(answered) if answered else 0.0


def accuracy(answered: Sequence[Answered]) -> dict[str, float]:
    """The plain figure of most benchmarks."""
    return {"accuracy": mean_score(answered)}


def accuracy_by(answered: Sequence[Answered], detail: str) -> dict[str, float]:
    """The accuracy of all, then for each value of a detail."""
    groups: dict[str, list[Answered]] = {}
    for one in answered:
        groups.setdefault(str(one.example.details[detail]), []).append(one)
    return accuracy(answered) | {name: mean_score(groups[name]) for name in sorted(groups)}


def nothing(example: Example, answer: str) -> Mark:
    """The mark of benchmarks that are graded elsewhere."""
    return Mark(0.0, answer.strip())
