"""Benchmarks that a language model grades elsewhere: MM-Vet and MathVista. Here they are asked and exported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from llm_server.evaluation.benchmarks.benchmark import MAX_NEW_TOKENS, Answered, Benchmark, nothing
from llm_server.evaluation.harness.example import Example, PictureFile


def _read_mmvet(data: Path) -> list[Example]:
    told = json.loads((data / "mm-vet.json").read_text("utf-8"))
    return [
        Example(
            f"mm-vet/{number}",
            "mm-vet",
            PictureFile(data / "images" / one["imagename"]),
            one["question"],
            str(one["answer"]),
            MAX_NEW_TOKENS,
            {"key": number},
        )
        for number, one in told.items()
    ]


def _export_mmvet(answered: Sequence[Answered]) -> tuple[str, str]:
    """`{"v1_0": answer, ...}`, as MM-Vet's grader takes it."""
    told = {one.example.details["key"]: one.answer for one in answered}
    return "mm-vet.json", json.dumps(told, indent=2, ensure_ascii=False)


def _read_mathvista(data: Path) -> list[Example]:
    told = json.loads((data / "annot_testmini.json").read_text("utf-8"))
    return [
        Example(
            f"mathvista/{number}",
            "mathvista",
            PictureFile(data / one["image"]),
            one["query"],
            str(one.get("answer", "")),
            MAX_NEW_TOKENS,
            {"key": number, "problem": one},
        )
        for number, one in told.items()
    ]


def _export_mathvista(answered: Sequence[Answered]) -> tuple[str, str]:
    """`{pid: {problem, "response": answer}, ...}`, as MathVista's answer extraction takes it."""
    told = {
        one.example.details["key"]: {**one.example.details["problem"], "response": one.answer}
        for one in answered
    }
    return "mathvista.json", json.dumps(told, indent=2, ensure_ascii=False)


def _ungraded(answered: Sequence[Answered]) -> dict[str, float]:
    return {}


MMVET: Final = Benchmark(
    "mm-vet",
    "MM-Vet (export)",
    ("mm-vet.json", "images/<imagename>"),
    "the MM-Vet repository",
    _read_mmvet,
    nothing,
    _ungraded,
    _export_mmvet,
)
MATHVISTA: Final = Benchmark(
    "mathvista",
    "MathVista (testmini, export)",
    ("annot_testmini.json", "images/<pid>.jpg"),
    "the MathVista data set of AI4Math (annotation as JSON, and images.zip)",
    _read_mathvista,
    nothing,
    _ungraded,
    _export_mathvista,
)
