"""Makes the four kinds of object-level questions from annotated pictures; same seed, same questions.

- existence: every category that is there (crowds count), and as many that are not, drawn from all categories;
  a picture without objects is asked about `EMPTY` absent ones.
- count: every category with 1 to `MAX_COUNT` objects and no crowd.
- class_to_box: every category without a crowd.
- box_to_class: every object that is no crowd, if its box has an area when it is written with two decimals and no
  object of another category has the same box.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from llm_server.evaluation.harness.example import Example, PictureFile
from llm_server.evaluation.probes.boxes import Box
from llm_server.evaluation.probes.coco import AnnotatedPicture, AnnotatedSet
from llm_server.evaluation.probes.prompts import Form

KINDS: Final = ("existence", "count", "class_to_box", "box_to_class")
MAX_COUNT: Final = 5
EMPTY: Final = 3

# A box takes some 30 tokens with a tokenizer that splits digits.
_TOKENS_A_BOX: Final = 40


def make_questions(
    annotated: AnnotatedSet, form: Form, *, kinds: Sequence[str] = KINDS, seed: int = 0, limit: int = 0
) -> list[Example]:
    """The questions of `kinds`, kind by kind; with `limit` at most so many of each, drawn from all.

    Raises:
        KeyError: there is no such kind.
    """
    made: list[Example] = []
    for kind in kinds:
        questions = [
            one
            for picture in annotated.pictures
            for one in _MAKERS[kind](
                picture, annotated.categories, form, random.Random(f"{seed} {kind} {picture.id}")
            )
        ]
        made += drawn(questions, limit, random.Random(f"{seed} {kind}"))
    return made


def drawn(examples: Sequence[Example], limit: int, rng: random.Random) -> list[Example]:
    """At most `limit` of them (0: all), in their own order."""
    if not limit or len(examples) <= limit:
        return list(examples)
    return [examples[i] for i in sorted(rng.sample(range(len(examples)), limit))]


def _existence(
    picture: AnnotatedPicture, categories: Sequence[str], form: Form, rng: random.Random
) -> Iterator[Example]:
    present = [name for name in categories if name in picture.names()]
    others = [name for name in categories if name not in picture.names()]
    absent = rng.sample(others, min(len(others), len(present) or EMPTY))
    for name, answer in [*((n, "Yes.") for n in present), *((n, "No.") for n in absent)]:
        yield _example("existence", picture, name, form.ask_existence(name), answer, 32, {"name": name})


def _count(
    picture: AnnotatedPicture, categories: Sequence[str], form: Form, rng: random.Random
) -> Iterator[Example]:
    for name, n in picture.counts().items():
        if n <= MAX_COUNT and name not in picture.crowds():
            yield _example("count", picture, name, form.ask_count(name), f"{n}.", 32, {"name": name})


def _class_to_box(
    picture: AnnotatedPicture, categories: Sequence[str], form: Form, rng: random.Random
) -> Iterator[Example]:
    for name, n in picture.counts().items():
        if name in picture.crowds():
            continue
        boxes = [seen.box for seen in picture.objects if seen.name == name]
        tokens = _TOKENS_A_BOX * (n + 2)
        details = {"name": name, "boxes": boxes}
        yield _example(
            "class_to_box", picture, name, form.ask_boxes(name), named_boxes(name, boxes), tokens, details
        )


def _box_to_class(
    picture: AnnotatedPicture, categories: Sequence[str], form: Form, rng: random.Random
) -> Iterator[Example]:
    names: dict[Box, set[str]] = {}
    for seen in picture.objects:
        names.setdefault(written(seen.box), set()).add(seen.name)
    for number, seen in enumerate(picture.objects):
        x0, y0, x1, y1 = box = written(seen.box)
        if seen.crowd or x0 >= x1 or y0 >= y1 or len(names[box]) > 1:
            continue
        details = {"name": seen.name, "box": box}
        yield _example(
            "box_to_class", picture, str(number), form.ask_class(box), f"{seen.name}.", 32, details
        )


_MAKERS: Final[
    Mapping[str, Callable[[AnnotatedPicture, Sequence[str], Form, random.Random], Iterator[Example]]]
] = {
    "existence": _existence,
    "count": _count,
    "class_to_box": _class_to_box,
    "box_to_class": _box_to_class,
}


def written(box: Box) -> Box:
    """The box as it is written: two decimals."""
    x0, y0, x1, y1 = (round(value, 2) for value in box)
    return x0, y0, x1, y1


def named_boxes(name: str, boxes: Iterable[Box]) -> str:
    """`Sure, it is (#1 horse) [0.06, 0.38, 0.27, 0.91], ...`: the published form of an answer."""
    items = (
        f"(#{number} {name}) [{', '.join(f'{value:.2f}' for value in box)}]"
        for number, box in enumerate(boxes, start=1)
    )
    return f"Sure, it is {', '.join(items)}."


def _example(
    kind: str,
    picture: AnnotatedPicture,
    what: str,
    question: str,
    expected: str,
    tokens: int,
    details: Mapping[str, object],
) -> Example:
    file = PictureFile(picture.path)
    return Example(f"{kind}/{picture.id}/{what}", kind, file, question, expected, tokens, details)
