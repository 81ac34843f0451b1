"""Multiple choice: how options are put, and which letter an answer names.

Three readings of an answer, as the published evaluation code of each benchmark has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from llm_server.evaluation.benchmarks.benchmark import LETTER
from llm_server.evaluation.harness.example import Example
from llm_server.evaluation.harness.runner import Mark

LETTERS: Final = "ABCDE"
_CAPITAL: Final = re.compile(r"[A-Z]")
_SENTENCE: Final = re.compile(r"The answer is ([A-Z])\.")
_MARKS_AROUND: Final = re.compile(r"^[(:]?([A-E])[.,:)]{0,2}$")


def lines(options: Sequence[str]) -> str:
    """One option a line: `A. red`, `B. blue`."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def ask(
    question: str, options: Sequence[str], *, hint: str = "", ending: str = LETTER, gap: bool = False
) -> str:
    """The question, its hint before it, its options a line each, and the ending.

    `gap` leaves the empty line before the ending that the published code has where it builds options itself (AI2D,
    Q-Bench).
    """
    head = f"{hint}\n{question}" if hint else question
    parts = [head, lines(options), *([""] if gap else []), ending]
    return "\n".join(parts)


def strict(answer: str) -> str:
    """ScienceQA's reading: the letter alone, `B. blue`, or `The answer is B.`; else nothing."""
    text = answer.strip()
    if text in tuple(LETTERS):
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = _SENTENCE.findall(text)
    return found[0] if len(found) == 1 else ""


def first_character(answer: str) -> str:
    """SEED's and Q-Bench's reading: the first character, as a capital."""
    return answer.strip()[:1].upper()


def first_capital(answer: str) -> str:
    """AI2D's reading: the first capital letter anywhere."""
    found = _CAPITAL.search(answer)
    return found.group() if found is not None else ""


def inferred(answer: str, options: Mapping[str, str]) -> str:
    """MMBench's reading without its language model: the one letter standing alone, else the one option quoted.

    A bare `A` among more than three words is an article, not an option.
    """
    words = answer.split()
    named = {
        match.group(1) for word in words if (match := _MARKS_AROUND.match(word)) and match.group(1) in options
    }
    if "A" in words and len(words) > 3:
        named.discard("A")
    if len(named) == 1:
        return named.pop()
    quoted = [letter for letter, option in options.items() if option and option.lower() in answer.lower()]
    return quoted[0] if len(quoted) == 1 else ""


def mark_letter(example: Example, letter: str) -> Mark:
    """Right if it is the expected letter."""
    return Mark(float(bool(letter) and letter == example.expected), letter)
