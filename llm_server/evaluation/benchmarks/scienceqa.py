"""ScienceQA, the questions with a picture (SQA-IMG)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from llm_server.evaluation.benchmarks.benchmark import MAX_NEW_TOKENS, Benchmark, accuracy_by
from llm_server.evaluation.benchmarks.letters import LETTERS, ask, mark_letter, strict
from llm_server.evaluation.harness.example import Example, PictureFile
from llm_server.evaluation.harness.runner import Mark


def _read(data: Path) -> list[Example]:
    problems: dict[str, dict[str, Any]] = json.loads((data / "problems.json").read_text("utf-8"))
    test: list[str] = json.loads((data / "pid_splits.json").read_text("utf-8"))["test"]
    return [
        Example(
            f"scienceqa/{number}",
            "scienceqa",
            PictureFile(data / "images" / "test" / number / one["image"]),
            ask(one["question"], one["choices"], hint=one.get("hint") or ""),
            LETTERS[one["answer"]],
            MAX_NEW_TOKENS,
            {"subject": one.get("subject", "all")},
        )
        for number, one in ((number, problems[number]) for number in test)
        if one.get("image")
    ]


def _mark(example: Example, answer: str) -> Mark:
    return mark_letter(example, strict(answer))


SCIENCEQA: Final = Benchmark(
    "scienceqa",
    "ScienceQA, test questions with a picture",
    ("problems.json", "pid_splits.json", "images/test/<id>/image.png"),
    "the ScienceQA repository",
    _read,
    _mark,
    lambda answered: accuracy_by(answered, "subject"),
)
