"""Whether an answer has the form that its question asks for: one word, or the letter of an option."""

from __future__ import annotations

import re
from typing import Final

from llm_server.training.question import ONE_WORD, YES_NO

_LETTER: Final = re.compile(
    r"option'?s letter|letter of the (?:right |correct )?(?:option|answer)|with the letter"
)
_ONE_LETTER: Final = re.compile(r"^\(?([A-Z])\)?[.):]?$")
_ENDINGS: Final = tuple(ending.lower() for ending in (*ONE_WORD, *YES_NO))
_MOST_WORDS: Final = 3
"""A class name, such as "dining table" or "potted plant (#2)": what "a single word or phrase" comes to at least."""


def instruction(question: str) -> str | None:
    """``letter``, ``one_word``, or None for a question that asks for no form."""
    text = question.lower()
    if _LETTER.search(text):
        return "letter"
    return "one_word" if text.rstrip().endswith(_ENDINGS) or "one word" in text else None


def letter(answer: str) -> str | None:
    """The letter of an answer that is a letter and nothing else."""
    found = _ONE_LETTER.match(answer.strip())
    return found.group(1) if found else None


def followed(form: str, answer: str, expected: str = "") -> bool:
    """Whether the answer has the form; says nothing of whether it is right.

    A phrase may be as long as the expected one: what a sign says, say.
    """
    if form == "letter":
        return letter(answer) is not None
    return 1 <= len(answer.split()) <= max(_MOST_WORDS, len(expected.split()))
