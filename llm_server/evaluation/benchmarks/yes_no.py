"""Yes or no: POPE, MME, HallusionBench."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from llm_server.evaluation.benchmarks.benchmark import (
    MAX_NEW_TOKENS,
    ONE_WORD,
    Answered,
    Benchmark,
    accuracy_by,
    mean_score,
)
from llm_server.evaluation.harness.example import Example, PictureFile
from llm_server.evaluation.harness.runner import Mark

SHORT_TOKENS: Final = 5
POPE_SPLITS: Final = ("random", "popular", "adversarial")
PERCEPTION: Final = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION: Final = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def pope_says(answer: str) -> str:
    """POPE's reading: no if the first sentence holds "no", "No" or "not" as a word, else yes."""
    words = answer.lower().split(".")[0].replace(",", "").split()
    return "no" if {"no", "not"} & set(words) else "yes"


def mme_says(answer: str) -> str:
    """MME's reading: yes or no among the first four characters, else "other"."""
    head = answer.strip().lower()[:4]
    return "yes" if "yes" in head else "no" if "no" in head else "other"


def _read_pope(data: Path) -> list[Example]:
    examples = []
    for split in POPE_SPLITS:
        for line in (data / f"coco_pope_{split}.json").read_text("utf-8").splitlines():
            one = json.loads(line)
            examples.append(
                Example(
                    f"pope/{split}/{one['question_id']}",
                    f"pope_{split}",
                    PictureFile(data / "val2014" / one["image"]),
                    f"{one['text']}\n{ONE_WORD}",
                    one["label"],
                    SHORT_TOKENS,
                    {"split": split},
                )
            )
    return examples


def _mark_pope(example: Example, answer: str) -> Mark:
    said = pope_says(answer)
    return Mark(float(said == example.expected), said)


def _pope_figures(answered: Sequence[Answered]) -> dict[str, float]:
    """Mean accuracy of the splits, then for each accuracy, precision, recall, F1 (of yes) and share of yes."""
    figures: dict[str, float] = {}
    splits = [
        split for split in POPE_SPLITS if any(one.example.details["split"] == split for one in answered)
    ]
    for split in splits:
        found = [one for one in answered if one.example.details["split"] == split]
        said = sum(one.mark.read == "yes" for one in found)
        true = sum(one.example.expected == "yes" for one in found)
        hits = sum(one.mark.read == "yes" == one.example.expected for one in found)
        figures |= {
            f"{split}_accuracy": mean_score(found),
            f"{split}_precision": 100 * hits / max(said, 1),
            f"{split}_recall": 100 * hits / max(true, 1),
            f"{split}_f1": 200 * hits / max(said + true, 1),
            f"{split}_yes_ratio": 100 * said / len(found),
        }
    mean = sum(figures[f"{split}_accuracy"] for split in splits) / max(len(splits), 1)
    return {"accuracy": mean} | figures


def _read_mme(data: Path) -> list[Example]:
    examples = []
    for task in (*PERCEPTION, *COGNITION):
        folder = data / task
        texts, images = folder, folder
        if (folder / "images").is_dir():
            texts, images = folder / "questions_answers_YN", folder / "images"
        files = sorted(texts.glob("*.txt"))
        if not files:
            raise FileNotFoundError(f"no questions in {texts}")
        for file in files:
            picture = next((p for p in sorted(images.glob(f"{file.stem}.*")) if p.suffix != ".txt"), None)
            if picture is None:
                raise FileNotFoundError(f"no picture for {file}")
            for number, line in enumerate(file.read_text("utf-8").splitlines()):
                question, answer = line.strip().split("\t")
                examples.append(
                    Example(
                        f"mme/{task}/{file.stem}/{number}",
                        f"mme_{task}",
                        PictureFile(picture),
                        question,
                        answer.lower(),
                        SHORT_TOKENS,
                        {"task": task, "image": file.stem},
                    )
                )
    return examples


def _mark_mme(example: Example, answer: str) -> Mark:
    said = mme_says(answer)
    return Mark(float(said == example.expected), said)


def _mme_figures(answered: Sequence[Answered]) -> dict[str, float]:
    """Perception, cognition and their sum; a task counts its accuracy and the share of pictures with both right."""
    tasks: dict[str, float] = {}
    for task in (*PERCEPTION, *COGNITION):
        found = [one for one in answered if one.example.details["task"] == task]
        if not found:
            continue
        pictures: dict[str, list[float]] = {}
        for one in found:
            pictures.setdefault(one.example.details["image"], []).append(one.mark.score)
        both = sum(all(scores) for scores in pictures.values()) / len(pictures)
        tasks[task] = mean_score(found) + 100 * both
    perception = sum(score for task, score in tasks.items() if task in PERCEPTION)
    cognition = sum(score for task, score in tasks.items() if task in COGNITION)
    return {"perception": perception, "cognition": cognition, "total": perception + cognition} | tasks


def _read_hallusion(data: Path) -> list[Example]:
    told: list[dict[str, Any]] = json.loads((data / "HallusionBench.json").read_text("utf-8"))
    return [
        Example(
            f"hallusionbench/{number}",
            "hallusionbench",
            PictureFile(data / one["filename"]),
            one["question"],
            str(one["gt_answer"]),
            MAX_NEW_TOKENS,
            {"category": one["category"]},
        )
        for number, one in enumerate(told)
        if one["filename"]
    ]


def _mark_hallusion(example: Example, answer: str) -> Mark:
    said = "1" if "yes" in answer.lower() else "0"
    return Mark(float(said == example.expected), said)


POPE: Final = Benchmark(
    "pope",
    "POPE (COCO)",
    (*(f"coco_pope_{split}.json" for split in POPE_SPLITS), "val2014/COCO_val2014_<id>.jpg"),
    "the POPE repository (output/coco) and COCO's val2014 pictures",
    _read_pope,
    _mark_pope,
    _pope_figures,
)
MME: Final = Benchmark(
    "mme",
    "MME",
    (
        "<task>/<picture> and <picture>.txt, or <task>/images and <task>/questions_answers_YN, for all 14 tasks",
    ),
    "its authors on request (MME_Benchmark_release_version)",
    _read_mme,
    _mark_mme,
    _mme_figures,
)
HALLUSIONBENCH: Final = Benchmark(
    "hallusionbench",
    "HallusionBench (questions with a picture)",
    ("HallusionBench.json", "<filename of each question>"),
    "the HallusionBench repository and its hallusion_bench picture archive",
    _read_hallusion,
    _mark_hallusion,
    lambda answered: accuracy_by(answered, "category"),
)
