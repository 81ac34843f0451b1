"""Answers in a word: GQA, TextVQA, ChartQA.

- GQA: equal to the only answer, case and a full stop at the end aside (its own `eval.py` compares as is).
- TextVQA: VQA accuracy over ten people's answers: for each nine of them, the share of three who said the same, at most
  1, averaged (VQA evaluation, visualqa.org/evaluation), after that evaluation's normalisation.
- ChartQA: relaxed accuracy: a number may be off by 5 %, anything else must be equal (arXiv 2203.10244, section 5.1).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from llm_server.evaluation.benchmarks.benchmark import (
    MAX_NEW_TOKENS,
    ONE_WORD,
    Answered,
    Benchmark,
    accuracy,
    accuracy_by,
    mean_score,
)
from llm_server.evaluation.harness.example import Example, PictureFile
from llm_server.evaluation.harness.runner import Mark
from llm_server.evaluation.scoring import NUMBERS

_CONTRACTED: Final = (
    "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't oughtn't "
    "shan't shouldn't wasn't weren't won't wouldn't could've might've must've should've would've they've we've you've "
    "who've what've where've i'm he'd they'd who'd how'd where'd there'd you'd it'd that's there's what's who's how's "
    "when's where's why's he's let's they'll you'll it'll who'll what'll why'll they're you're what're there're who're "
    "ma'am o'clock y'all 'twas"
)
_WITHOUT_APOSTROPHE: Final = {word.replace("'", ""): word for word in _CONTRACTED.split()}
_DIGITS: Final = {word: str(k) for k, word in enumerate(NUMBERS)} | {"none": "0"}
_PUNCTUATION: Final = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER: Final = re.compile(r"\d,\d")
_FULL_STOP: Final = re.compile(r"\.(?!\d)")


def normalised(answer: str) -> str:
    """An answer as the VQA evaluation compares it: lower case, no punctuation, articles or number words."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = " ".join(text.split())
    loose = _COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        # Beside a blank punctuation vanishes; between letters it parts them.
        beside = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside or loose else " ")
    cleaned = _FULL_STOP.sub("", cleaned)
    words = (_DIGITS.get(word, word) for word in cleaned.split())
    return " ".join(_WITHOUT_APOSTROPHE.get(word, word) for word in words if word not in ("a", "an", "the"))


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """Share of agreement with the people asked, 0..1; each of them left out once."""
    said = normalised(answer)
    votes = [normalised(one) for one in people]
    agreeing = Counter(votes)[said]
    scores = (min(1.0, (agreeing - (vote == said)) / 3) for vote in votes)
    return sum(scores) / len(votes)


def relaxed(answer: str, target: str, tolerance: float = 0.05) -> bool:
    """ChartQA's comparison."""
    said, true = _number(answer), _number(target)
    if said is not None and true:
        return abs(said - true) <= tolerance * abs(true)
    return answer.strip().lower() == target.strip().lower()


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None


def _ask(question: str) -> str:
    return f"{question}\n{ONE_WORD}"


def _read_gqa(data: Path) -> list[Example]:
    told: dict[str, dict[str, Any]] = json.loads(
        (data / "testdev_balanced_questions.json").read_text("utf-8")
    )
    return [
        Example(
            f"gqa/{number}",
            "gqa",
            PictureFile(data / "images" / f"{one['imageId']}.jpg"),
            _ask(one["question"]),
            one["answer"],
            MAX_NEW_TOKENS,
            {"type": one.get("types", {}).get("structural", "all")},
        )
        for number, one in told.items()
    ]


def _mark_gqa(example: Example, answer: str) -> Mark:
    said = answer.strip().lower().rstrip(".")
    return Mark(float(said == example.expected.lower()), said)


def _read_textvqa(data: Path) -> list[Example]:
    told: list[dict[str, Any]] = json.loads((data / "TextVQA_0.5.1_val.json").read_text("utf-8"))["data"]
    return [
        Example(
            f"textvqa/{one['question_id']}",
            "textvqa",
            PictureFile(data / "train_images" / f"{one['image_id']}.jpg"),
            _ask(one["question"]),
            Counter(one["answers"]).most_common(1)[0][0],
            MAX_NEW_TOKENS,
            {"answers": list(one["answers"])},
        )
        for one in told
    ]


def _mark_textvqa(example: Example, answer: str) -> Mark:
    return Mark(vqa_accuracy(answer, example.details["answers"]), normalised(answer))


def _read_chartqa(data: Path) -> list[Example]:
    return [
        Example(
            f"chartqa/{split}/{number}",
            "chartqa",
            PictureFile(data / "test" / "png" / one["imgname"]),
            _ask(one["query"]),
            str(one["label"]),
            MAX_NEW_TOKENS,
            {"split": split},
        )
        for split in ("human", "augmented")
        for number, one in enumerate(json.loads((data / "test" / f"test_{split}.json").read_text("utf-8")))
    ]


def _mark_chartqa(example: Example, answer: str) -> Mark:
    said = answer.strip().rstrip(".")
    return Mark(float(relaxed(said, example.expected)), said)


def _chartqa_figures(answered: Sequence[Answered]) -> dict[str, float]:
    splits = {
        split: mean_score([one for one in answered if one.example.details["split"] == split])
        for split in ("human", "augmented")
    }
    return {"relaxed_accuracy": sum(splits.values()) / 2} | splits


GQA: Final = Benchmark(
    "gqa",
    "GQA (testdev balanced)",
    ("testdev_balanced_questions.json", "images/<imageId>.jpg"),
    "the GQA page of Stanford's visual reasoning group (questions1.2 and images)",
    _read_gqa,
    _mark_gqa,
    lambda answered: accuracy_by(answered, "type"),
)
TEXTVQA: Final = Benchmark(
    "textvqa",
    "TextVQA (val 0.5.1)",
    ("TextVQA_0.5.1_val.json", "train_images/<image_id>.jpg"),
    "textvqa.org",
    _read_textvqa,
    _mark_textvqa,
    accuracy,
)
CHARTQA: Final = Benchmark(
    "chartqa",
    "ChartQA (test)",
    ("test/test_human.json", "test/test_augmented.json", "test/png/<imgname>"),
    "the ChartQA repository of vis-nlp",
    _read_chartqa,
    _mark_chartqa,
    _chartqa_figures,
)
