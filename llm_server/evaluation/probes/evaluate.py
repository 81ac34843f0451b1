"""The report of the object-level probes: what was asked, what was right, and how far a perfect reader got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llm_server.evaluation.harness.bootstrap import percentiles, resampled_means
from llm_server.evaluation.harness.example import Condition, Example, Record
from llm_server.evaluation.harness.html_report import Case
from llm_server.evaluation.harness.runner import Run
from llm_server.evaluation.harness.tables import Cell, Scored, scored, table
from llm_server.evaluation.probes.answers import mark
from llm_server.evaluation.probes.perfect_reader import READERS, answer, reported

MODEL: Final = "adapters"
BASE: Final = "base"
PERFECT: Final = "perfect reader"
_WORST: Final = 16


def conditions(model: str, experts: Sequence[str], *, base: bool) -> list[Condition]:
    """The model with its default adapters, and with none beside it."""
    chosen = tuple(experts)
    asked = [Condition(MODEL, None, model, chosen)]
    return [*asked, Condition(BASE, (), model, chosen)] if base else asked


@dataclass(frozen=True)
class Reading:
    """What a perfect reader scores on a question, beside what the model scored."""

    example: Example
    record: Record
    answers: Mapping[str, str]
    scores: Mapping[str, float]


def readings(examples: Sequence[Example], records: Sequence[Record]) -> list[Reading]:
    """What every reader makes of what the experts saw, for the records of the model's own condition."""
    by_id = {example.id: example for example in examples}
    found = []
    for record in records:
        if record.condition != MODEL:
            continue
        example = by_id[record.id]
        answers = {name: answer(example, objects(record)) for name, objects in READERS.items()}
        scores = {name: mark(example, said).score for name, said in answers.items()}
        found.append(Reading(example, record, answers, scores))
    return found


@dataclass(frozen=True)
class Outcome:
    """Everything that is shown: `report` is the command's JSON, `table` has a column for each condition and reader."""

    report: dict[str, Any]
    table: dict[str, dict[str, Cell]]
    readings: list[Reading]


def outcome(examples: Sequence[Example], run: Run, *, seed: int = 0) -> Outcome:
    """The figures of a run.

    `report` has a share (0..1, four decimals) for each kind of question at the top, and the same under "base" and
    "perfect_reader"; "of_perfect_reader" is the ratio of the model to the perfect reader with its interval; "readers"
    are the other readers; "intervals" the 95 % intervals of the model. POPE has its own figures under "pope". Questions
    without an answer are in no figure; "failed" says how many there are, "incomplete" how many answers were given while
    an expert was missing.
    """
    read = readings(examples, run.records)
    rows = [*scored(run.records)]
    rows += [Scored(one.example.group, PERFECT, one.record.picture, one.scores["reports"]) for one in read]
    cells = table(rows, seed=seed)
    kinds = [kind for kind in cells if not kind.startswith("pope_")]
    report: dict[str, Any] = {kind: _mean(cells[kind], MODEL) for kind in kinds}
    report["perfect_reader"] = {kind: _mean(cells[kind], PERFECT) for kind in kinds}
    report["base"] = {kind: _mean(cells[kind], BASE) for kind in kinds}
    report["of_perfect_reader"] = {
        kind: _ratio([one for one in read if one.example.group == kind], seed) for kind in kinds
    }
    report["readers"] = {
        name: {
            kind: _share([one.scores[name] for one in read if one.example.group == kind]) for kind in kinds
        }
        for name in READERS
        if name != "reports"
    }
    report["intervals"] = {
        kind: [round(cells[kind][MODEL].low, 4), round(cells[kind][MODEL].high, 4)]
        for kind in kinds
        if MODEL in cells[kind]
    }
    report["pope"] = {
        kind.removeprefix("pope_"): _pope(read, kind) for kind in cells if kind.startswith("pope_")
    }
    report["n"] = {kind: max(cell.count for cell in row.values()) for kind, row in cells.items()}
    report["pictures"] = len({record.picture for record in run.records})
    report["failed"] = len(run.failures)
    report["incomplete"] = sum(
        any(how not in ("ok", "skipped") for how in record.experts.values()) for record in run.records
    )
    report["reused"] = run.reused
    report["served"] = _served(run.records)
    return Outcome(report, cells, read)


def worst_cases(found: Sequence[Reading]) -> list[Case]:
    """The cases to look at: those a perfect reader has right first, then by how wrong the model is."""
    ranked = sorted(
        (one for one in found if one.record.score < 1.0),
        key=lambda one: (one.record.score - one.scores["reports"], one.record.score, one.record.id),
    )
    return [_case(one) for one in ranked[:_WORST]]


def _case(one: Reading) -> Case:
    boxes = [(seen.box, "#2563eb", seen.name) for seen in reported(one.record)]
    details = one.example.details
    for box in details.get("boxes", [details["box"]] if "box" in details else []):
        x0, y0, x1, y1 = box
        boxes.append(((x0, y0, x1, y1), "#dc2626", ""))
    try:
        image = one.example.picture.read()
    except OSError:
        image = None
    remarks = {"a perfect reader says": f"{one.answers['reports']} ({one.scores['reports']:.2f})"}
    return Case(one.record, image, boxes, remarks)


def _mean(row: Mapping[str, Cell], column: str) -> float | None:
    return round(row[column].mean, 4) if column in row else None


def _share(scores: Sequence[float]) -> float | None:
    return round(sum(scores) / len(scores), 4) if scores else None


def _ratio(found: Sequence[Reading], seed: int) -> dict[str, float] | None:
    """Model over perfect reader, with the interval of the paired bootstrap; None where the reader has nothing right."""
    perfect = sum(one.scores["reports"] for one in found)
    if not found or not perfect:
        return None
    pairs = [[one.record.score, one.scores["reports"]] for one in found]
    draws = resampled_means(pairs, [one.record.picture for one in found], seed=seed)
    draws = draws[draws[:, 1] > 0]
    low, high = percentiles(draws[:, 0] / draws[:, 1])
    share = sum(one.record.score for one in found) / perfect
    return {"share": round(share, 4), "low": round(low, 4), "high": round(high, 4)}


def _pope(found: Sequence[Reading], group: str) -> dict[str, float | None]:
    """Accuracy, precision, recall and F1 of "yes", and the share of "yes"."""
    pairs = [
        (one.record.read == "yes", one.example.expected == "Yes")
        for one in found
        if one.example.group == group
    ]
    hits = sum(said and true for said, true in pairs)
    said, true = sum(said for said, _ in pairs), sum(true for _, true in pairs)
    right = [one for one in found if one.example.group == group]
    return {
        "accuracy": _share([one.record.score for one in right]),
        "precision": round(hits / said, 4) if said else None,
        "recall": round(hits / true, 4) if true else None,
        "f1": round(2 * hits / (said + true), 4) if said + true else None,
        "yes_ratio": round(said / len(pairs), 4) if pairs else None,
        "perfect_reader": _share([one.scores["reports"] for one in right]),
    }


def _served(records: Sequence[Record]) -> dict[str, list[str]]:
    """Which models took part, by part; more than one of a part means that it was changed in between."""
    parts: dict[str, set[str]] = {}
    for record in records:
        for part, model in record.served.items():
            parts.setdefault(part, set()).add(model)
    return {part: sorted(models) for part, models in sorted(parts.items())}
