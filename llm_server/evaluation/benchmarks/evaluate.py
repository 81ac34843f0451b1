"""The report of a benchmark: what was measured beside what is published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_server.evaluation.benchmarks.benchmark import Answered, Benchmark
from llm_server.evaluation.benchmarks.published import APPROXIMATE, PUBLISHED
from llm_server.evaluation.harness.example import Example, Record
from llm_server.evaluation.harness.html_report import Case
from llm_server.evaluation.harness.runner import Mark, Run
from llm_server.evaluation.harness.tables import cell

_WORST = 16


def answered(examples: Sequence[Example], records: Sequence[Record], condition: str) -> list[Answered]:
    """The examples with the answers they got under a condition."""
    by_id = {example.id: example for example in examples}
    return [
        Answered(by_id[record.id], record.answer, Mark(record.score, record.read))
        for record in records
        if record.condition == condition
    ]


def report(
    benchmark: Benchmark, examples: Sequence[Example], run: Run, *, conditions: Sequence[str], partial: bool
) -> dict[str, Any]:
    """The command's JSON: "measured" by condition, "published" by figure and model, the mean mark's interval.

    `partial` says that not all questions were asked: figures that count pairs or turns are then no more than a hint.
    """
    measured = {}
    intervals = {}
    for condition in conditions:
        found = answered(examples, run.records, condition)
        measured[condition] = {name: round(value, 2) for name, value in benchmark.figures(found).items()}
        if found and measured[condition]:
            marks = cell([one.mark.score for one in found], [one.example.picture.name for one in found])
            intervals[condition] = [round(100 * marks.low, 2), round(100 * marks.high, 2)]
    return {
        "benchmark": benchmark.name,
        "measured": measured,
        "mean_mark_interval": intervals,
        "published": {figure: dict(models) for figure, models in PUBLISHED[benchmark.name].items()},
        "approximate": sorted(model for name, model in APPROXIMATE if name == benchmark.name),
        "graded": bool(benchmark.figures([])),
        "n": len(examples),
        "partial": partial,
        "failed": len(run.failures),
        "reused": run.reused,
    }


def worst_cases(examples: Sequence[Example], records: Sequence[Record]) -> list[Case]:
    """The first answers with the lowest marks."""
    by_id = {example.id: example for example in examples}
    wrong = sorted((one for one in records if one.score < 1.0), key=lambda one: (one.score, one.id))
    cases = []
    for record in wrong[:_WORST]:
        try:
            image = by_id[record.id].picture.read()
        except (OSError, ValueError):
            image = None
        cases.append(Case(record, image))
    return cases
