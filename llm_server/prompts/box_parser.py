"""Reads boxes and class names out of an answer such as `Sure, it is (#1 horse) [0.06, 0.38, 0.27, 0.91].`

Same rules as the published parser (brackets and parentheses are paired by their order), but numbers are read as
numbers: the published one evaluates what the model wrote as Python code.
Pure: standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

Box: TypeAlias = tuple[float, float, float, float]

_NUMBER = re.compile(r"[+-]?(?:\d{1,32}(?:\.\d{0,32})?|\.\d{1,32})", re.ASCII)


class AnswerFormatError(ValueError):
    """The answer cannot be read as named boxes."""


@dataclass(frozen=True)
class NamedBox:
    """A class name (what follows the first space in the parentheses) and its box, in the order of the answer."""

    name: str
    box: Box


def parse_named_boxes(answer: str) -> list[NamedBox]:
    """The named boxes of an answer; none if it has no brackets at all. Boxes of other than four numbers are left out.

    Coordinates are not clipped and not checked for order.

    Raises:
        AnswerFormatError: there are not as many `[`, `]`, `(` and `)`, one closes before it opens, or what a pair
            of brackets holds is not a list of decimal numbers.
    """
    places = {mark: [i for i, character in enumerate(answer) if character == mark] for mark in "[]()"}
    if len({len(found) for found in places.values()}) != 1:
        counts = ", ".join(f"{len(found)} {mark!r}" for mark, found in places.items())
        raise AnswerFormatError(f"brackets and parentheses do not pair up: {counts}")
    named = []
    for box_start, box_end, name_start, name_end in zip(*(places[mark] for mark in "[]()"), strict=True):
        if box_end < box_start or name_end < name_start:
            raise AnswerFormatError("a bracket or parenthesis closes before it opens")
        numbers = _numbers(answer[box_start + 1 : box_end])
        if len(numbers) == 4:
            x0, y0, x1, y1 = numbers
            named.append(NamedBox(_name(answer[name_start + 1 : name_end]), (x0, y0, x1, y1)))
    return named


def _numbers(text: str) -> list[float]:
    """Decimal numbers separated by commas; a comma may stand at the end, as in a Python list."""
    parts = [part.strip() for part in text.split(",")]
    if not parts[-1]:
        parts.pop()
    for part in parts:
        if not _NUMBER.fullmatch(part):
            raise AnswerFormatError(f"{part!r} in a box is not a decimal number")
    return [float(part) for part in parts]


def _name(text: str) -> str:
    """`traffic light` of `#2 traffic light`; a text without a space is the name itself."""
    return text[text.find(" ") + 1 :]
