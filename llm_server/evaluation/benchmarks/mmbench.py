"""MMBench and MMBench-CN: tables with the pictures in them.

A question may come several times with its options turned (index + n x 1,000,000); it counts only if every turn is
answered rightly (CircularEval, arXiv 2307.06281, section 4.2). `accuracy` is that; `vanilla` counts rows. The free-form
answers that the authors give to a language model to match are read by their rules without it. Test tables have no
answers: for them only the export is of use (as tab-separated values; the authors' server takes a spreadsheet).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from llm_server.evaluation.benchmarks.benchmark import (
    LETTER,
    LETTER_CN,
    MAX_NEW_TOKENS,
    Answered,
    Benchmark,
    mean_score,
)
from llm_server.evaluation.benchmarks.letters import ask, inferred, mark_letter
from llm_server.evaluation.harness.example import EncodedPicture, Example
from llm_server.evaluation.harness.runner import Mark

_TURN: Final = 1_000_000
_NOTHING: Final = frozenset({"", "nan", "none"})


def _rows(file: Path) -> Iterator[dict[str, str]]:
    """Rows of a tab-separated table whose cells may hold whole pictures."""
    csv.field_size_limit(2**27)
    with file.open(encoding="utf-8", newline="") as opened:
        yield from csv.DictReader(opened, delimiter="\t")


def _said(row: Mapping[str, str | None], column: str) -> str:
    """A cell's text; nothing for what stands for an empty cell."""
    text = (row.get(column) or "").strip()
    return "" if text.lower() in _NOTHING else text


def _options(row: Mapping[str, str]) -> dict[str, str]:
    """The options by letter, up to the first that is missing."""
    found: dict[str, str] = {}
    for letter in "ABCD":
        option = _said(row, letter)
        if not option:
            break
        found[letter] = option
    return found


def _reader(name: str, file: str, ending: str) -> Callable[[Path], list[Example]]:
    def read(data: Path) -> list[Example]:
        rows = list(_rows(data / file))
        # Turned rows may leave the picture out, or name the row that has it.
        pictures = {row["index"]: row["image"] for row in rows}
        examples = []
        for row in rows:
            options = _options(row)
            index = int(row["index"])
            picture = row["image"]
            if not picture:
                picture = pictures[str(index % _TURN)]
            elif picture in pictures:
                picture = pictures[picture]
            examples.append(
                Example(
                    f"{name}/{index}",
                    name,
                    EncodedPicture(f"{index % _TURN}", picture),
                    ask(row["question"], list(options.values()), hint=_said(row, "hint"), ending=ending),
                    _said(row, "answer"),
                    MAX_NEW_TOKENS,
                    {
                        "index": index,
                        "question": row["question"],
                        "options": options,
                        "category": _said(row, "category"),
                    },
                )
            )
        return examples

    return read


def _mark(example: Example, answer: str) -> Mark:
    return mark_letter(example, inferred(answer, example.details["options"]))


def _figures(answered: Sequence[Answered]) -> dict[str, float]:
    turns: dict[int, list[float]] = {}
    for one in answered:
        turns.setdefault(one.example.details["index"] % _TURN, []).append(one.mark.score)
    whole = sum(all(scores) for scores in turns.values()) / len(turns) if turns else 0.0
    return {"accuracy": 100 * whole, "vanilla": mean_score(answered)}


def _export(name: str) -> Callable[[Sequence[Answered]], tuple[str, str]]:
    def export(answered: Sequence[Answered]) -> tuple[str, str]:
        file = io.StringIO()
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(("index", "question", "A", "B", "C", "D", "prediction"))
        for one in answered:
            details = one.example.details
            options = (details["options"].get(letter, "") for letter in "ABCD")
            table.writerow((details["index"], details["question"], *options, one.answer))
        return f"{name}.tsv", file.getvalue()

    return export


def _benchmark(name: str, title: str, file: str, ending: str) -> Benchmark:
    return Benchmark(
        name,
        title,
        (f"{file} (tab-separated; pictures in base64)",),
        "the MMBench repository of OpenCompass",
        _reader(name, file, ending),
        _mark,
        _figures,
        _export(name),
    )


MMBENCH: Final = _benchmark("mmbench", "MMBench (dev)", "mmbench_dev_20230712.tsv", LETTER)
MMBENCH_CN: Final = _benchmark("mmbench-cn", "MMBench-CN (dev)", "mmbench_dev_cn_20231003.tsv", LETTER_CN)
