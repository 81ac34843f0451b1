"""Multiple choice in JSON files: SEED (pictures), AI2D, Q-Bench (LLVisionQA)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from llm_server.evaluation.benchmarks.benchmark import LETTER, MAX_NEW_TOKENS, Benchmark, accuracy_by
from llm_server.evaluation.benchmarks.letters import (
    LETTERS,
    ask,
    first_capital,
    first_character,
    mark_letter,
)
from llm_server.evaluation.harness.example import Example, PictureFile
from llm_server.evaluation.harness.runner import Mark


def _seed_question(one: dict[str, Any]) -> str:
    """SEED puts all its options on one line."""
    options = [one[key] for key in (f"choice_{letter.lower()}" for letter in LETTERS) if key in one]
    line = " ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{one['question']}\n{line}\n{LETTER}"


def _read_seed(data: Path) -> list[Example]:
    told = json.loads((data / "SEED-Bench.json").read_text("utf-8"))
    kinds = {number: name for name, number in told.get("question_type", {}).items()}
    return [
        Example(
            f"seed/{one['question_id']}",
            "seed",
            PictureFile(data / "SEED-Bench-image" / one["data_id"]),
            _seed_question(one),
            one["answer"],
            MAX_NEW_TOKENS,
            {"type": kinds.get(one["question_type_id"], str(one["question_type_id"]))},
        )
        for one in told["questions"]
        if one["data_type"] == "image"
    ]


def _read_ai2d(data: Path) -> list[Example]:
    return [
        Example(
            f"ai2d/{one['metadata']['questionId']}",
            "ai2d",
            PictureFile(data / "images" / one["imageName"]),
            # The published code offers four letters, whatever the number of texts.
            ask(one["question"], one["metadata"]["answerTexts"][:4], gap=True),
            LETTERS[one["metadata"]["correctAnswer"]],
            MAX_NEW_TOKENS,
            {"all": "all"},
        )
        for one in json.loads((data / "ai2d_test.json").read_text("utf-8"))
    ]


def _read_qbench(data: Path) -> list[Example]:
    examples = []
    for number, one in enumerate(json.loads((data / "llvisionqa_dev.json").read_text("utf-8"))):
        options = [option.lower() for option in one["candidates"]]
        examples.append(
            Example(
                f"qbench/{number}",
                "qbench",
                PictureFile(data / "images" / one["img_path"]),
                ask(one["question"], one["candidates"][:4], gap=True),
                LETTERS[options.index(one["correct_ans"].lower())],
                MAX_NEW_TOKENS,
                {"concern": str(one.get("concern", "all"))},
            )
        )
    return examples


def _marking(read: Callable[[str], str]) -> Callable[[Example, str], Mark]:
    return lambda example, answer: mark_letter(example, read(answer))


SEED: Final = Benchmark(
    "seed",
    "SEED-Bench (pictures)",
    ("SEED-Bench.json", "SEED-Bench-image/<data_id>"),
    "the SEED-Bench repository of AILab-CVC",
    _read_seed,
    _marking(first_character),
    lambda answered: accuracy_by(answered, "type"),
)
AI2D: Final = Benchmark(
    "ai2d",
    "AI2D (test)",
    ("ai2d_test.json", "images/<imageName>"),
    "the AI2D data set of AI2, its test questions as one list",
    _read_ai2d,
    _marking(first_capital),
    lambda answered: {"accuracy": accuracy_by(answered, "all")["accuracy"]},
)
QBENCH: Final = Benchmark(
    "qbench",
    "Q-Bench (LLVisionQA, dev)",
    ("llvisionqa_dev.json", "images/<img_path>"),
    "the Q-Bench repository",
    _read_qbench,
    _marking(first_character),
    lambda answered: accuracy_by(answered, "concern"),
)
