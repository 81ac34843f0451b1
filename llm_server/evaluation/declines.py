"""When an answer declines: says that something is not there, or that it cannot be told.

A model that reads what experts saw must decline where they saw nothing; and must not where they saw something, or
declining would be an easy way to be right.
"""

from __future__ import annotations

import re
from typing import Final

_CANNOT: Final = re.compile(
    r"\b(?:can ?not|can't|could not|couldn't|unable to|not able to|impossible to) (?:tell|say|see|know|be told)"
    r"|\b(?:do not|don't) know\b|\bnot sure\b"
)
_NOT_THERE: Final = re.compile(
    r"^(?:no|none|nothing|nobody|no one|0|zero)\b|\bthere (?:is|are) (?:no|not any|0|zero)\b|\bthere (?:isn't|aren't)\b"
    r"|^no objects? (?:was|were)\b|\bis not [a-z ]+ (?:anything|anybody|anyone)\b"
)
#: Kinds whose no is about how things stand, not about something that is absent.
NOT_ABOUT_ABSENCE: Final = frozenset({"position", "relation_true", "several", "once", "bigger"})


def cannot_tell(answer: str) -> bool:
    """Whether it says that this cannot be told."""
    return _CANNOT.search(_plain(answer)) is not None


def says_absent(answer: str) -> bool:
    """Whether it says no, none, nothing, or that something is not there."""
    return _NOT_THERE.search(_plain(answer)) is not None


def declines(answer: str) -> bool:
    """Whether it says no, none, nothing, that something is not there, or that it cannot be told."""
    return cannot_tell(answer) or says_absent(answer)


def about_something_absent(kind: str, expected: str) -> bool:
    """Whether a question of this kind with this right answer asks for what the experts did not see."""
    return kind not in NOT_ABOUT_ABSENCE and declines(expected)


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("’", "'").split()).lstrip("\"'“ ")
