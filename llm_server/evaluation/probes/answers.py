"""When the answer to a probe counts as right, the same for every model and for the perfect reader.

- existence (and POPE of our own making): the first word is the expected yes or no;
- count: the first number said, in digits or words ("no", "none" is 0), equals the expected one;
- box_to_class: the category, or another word for it, bare or after "it is" or an article, in singular or plural, with
  or without the object's number;
- class_to_box: F1 of the boxes said against those of the annotation, matched greedily at an IoU of at least .5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from llm_server.evaluation.harness.example import Example
from llm_server.evaluation.harness.runner import Mark
from llm_server.evaluation.probes.boxes import Box, f1
from llm_server.evaluation.scoring import normalise, number
from llm_server.training.vocabulary import SYNONYMS, plural

_DECIMAL: Final = r"[+-]?(?:\d{1,12}(?:\.\d{0,12})?|\.\d{1,12})"
_BOX: Final = re.compile(rf"\[\s*({_DECIMAL}(?:\s*,\s*{_DECIMAL}){{3}})\s*,?\s*\]", re.ASCII)
_NUMBERED: Final = re.compile(r"\(#\d+ ([^()]+)\)")
_NUMBER_BEHIND: Final = re.compile(r"\s*\(#\d+\)")


def boxes_in(text: str) -> list[Box]:
    """Every four decimal numbers in brackets, in their order; other brackets are passed over."""
    found: list[Box] = []
    for match in _BOX.finditer(text):
        x0, y0, x1, y1 = (float(value) for value in match.group(1).split(","))
        found.append((x0, y0, x1, y1))
    return found


def class_in(text: str) -> str:
    """The category named by a short answer, in lower case: `(#1 Cup).`, `It is a cup`, `the cup (#2)` are all `cup`."""
    numbered = _NUMBERED.search(text)
    if numbered is not None:
        return normalise(numbered.group(1))
    said = normalise(_NUMBER_BEHIND.sub("", text))
    return said.removeprefix("it is ").removeprefix("it's ").removeprefix("there is ")


def same_class(said: str, name: str) -> bool:
    """Whether two names, lower-case, mean the same category: equal, plural, or one of its other words."""
    words = {name, plural(name)}
    for one, many in SYNONYMS.get(name, ()):
        words |= {one, many}
    return said in {normalise(word) for word in words}


def mark(example: Example, answer: str) -> Mark:
    """The mark of an answer to any of the probes.

    Raises:
        KeyError: the example is of another group.
    """
    kind = "existence" if example.group.startswith("pope_") else example.group
    return _MARKS[kind](example, answer)


def _existence(example: Example, answer: str) -> Mark:
    words = normalise(answer).replace(",", " ").split()
    said = words[0].rstrip(".") if words else ""
    return Mark(float(said == normalise(example.expected)), said)


def _count(example: Example, answer: str) -> Mark:
    said = number(answer)
    return Mark(
        float(said is not None and said == number(example.expected)), "" if said is None else str(said)
    )


def _box_to_class(example: Example, answer: str) -> Mark:
    said = class_in(answer)
    return Mark(float(same_class(said, normalise(example.details["name"]))), said)


def _class_to_box(example: Example, answer: str) -> Mark:
    said = boxes_in(answer)
    true: list[Box] = [(x0, y0, x1, y1) for x0, y0, x1, y1 in example.details["boxes"]]
    return Mark(f1(said, true), f"{len(said)} boxes")


_MARKS: Final[Mapping[str, Callable[[Example, str], Mark]]] = {
    "existence": _existence,
    "count": _count,
    "box_to_class": _box_to_class,
    "class_to_box": _class_to_box,
}
