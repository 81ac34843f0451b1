"""The verbalization that the small embedded language model reads.

Three sentences joined by one space, empty ones left out:

    The image includes (#1 person) [0.00, 0.16, 0.29, 0.88], (#2 person) [0.31, 0.20, 0.55, 0.90].
    The image includes relationships between objects: person (#1) is riding bicycle.
    The image includes text descriptions: STOP, and EXIT 12.

The first is CoLLaVO's crayon sentence, the other two are MoAI's, with one difference: a relation calls an
object by the number it has in the object sentence (a class spoken of once needs no number), so that the model
can follow it there. Nothing at all to say: `None of detailed object information for image.`

Bounds, so that a crowded picture stays within a token budget (about 30 tokens an object, 12 a relation with
a tokenizer that splits digits; some 900 tokens at the worst):
- at most MAX_OBJECTS objects: the largest of each class first, then the largest of the rest;
- at most MAX_RELATIONS relations, in the order given; one that names an object left out is left out;
- at most MAX_LINES lines of text, in the order given, each shortened to MAX_LINE_CHARACTERS characters.
Objects are spoken class by class: the class with the largest object first, within a class the largest first;
equal areas in the order given. Numbers follow that order, so the last number of a class is its count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.verbalizer.names import UNLABELLED, display_name
from gateway.verbalizer.phrase import EMPTY, Box, Part, Verbalization, join, listing, union

MAX_OBJECTS = 20
MAX_RELATIONS = 10
MAX_LINES = 12
MAX_LINE_CHARACTERS = 80

NOTHING = "None of detailed object information for image."


@dataclass(frozen=True)
class SeenObject:
    """One object of the picture.

    Attributes:
        label: class name; "unlabelled" (the nameless rest of a panoptic map) is never spoken of.
        box: xyxy, normalised to the image as sent.
        area: share of the image it covers (0..1), for the order; None takes the area of the box.
        expert: who saw it, for provenance.
    """

    label: str
    box: Box
    area: float | None = None
    expert: str = "panoptic"

    @property
    def size(self) -> float:
        """Share of the image: `area`, or that of the box."""
        if self.area is not None:
            return self.area
        x0, y0, x1, y1 = self.box
        return max(x1 - x0, 0.0) * max(y1 - y0, 0.0)


@dataclass(frozen=True)
class SeenRelation:
    """`subject` and `object` are indices in the sequence of objects given along with it."""

    subject: int
    predicate: str
    object: int
    expert: str = "scene_graph"


@dataclass(frozen=True)
class SeenText:
    """One line of text; `box` is the smallest box around its polygon, normalised xyxy."""

    text: str
    box: Box | None = None
    expert: str = "ocr"


def verbalize_polysight(
    objects: Sequence[SeenObject], relations: Sequence[SeenRelation] = (), lines: Sequence[SeenText] = ()
) -> Verbalization:
    """Put what was seen into the sentences above; phrases carry indices in the sequences given.

    Raises:
        IndexError: a relation refers to an object that is not there.
    """
    spoken = _spoken(objects)
    numbers = _numbers(objects, spoken)
    sentences = (
        _object_sentence(objects, spoken, numbers),
        _relation_sentence(objects, relations, numbers),
        _text_sentence(lines),
    )
    said = [sentence for sentence in sentences if sentence.text]
    return join(said) if said else Verbalization(NOTHING)


def _spoken(objects: Sequence[SeenObject]) -> list[int]:
    """Indices of the objects that are spoken of, in the order of the sentence."""
    by_size = sorted(
        (i for i, seen in enumerate(objects) if seen.label.casefold() != UNLABELLED),
        key=lambda i: (-objects[i].size, i),
    )
    classes: dict[str, list[int]] = {}
    for i in by_size:
        classes.setdefault(display_name(objects[i].label), []).append(i)
    firsts = [members[0] for members in classes.values()]
    rest = [i for i in by_size if i not in set(firsts)]
    kept = set((firsts + rest)[:MAX_OBJECTS])
    return [i for members in classes.values() for i in members if i in kept]


def _numbers(objects: Sequence[SeenObject], spoken: Sequence[int]) -> dict[int, tuple[int, int]]:
    """For each spoken object its number within the class (from 1) and how many of the class are spoken of."""
    counts: dict[str, int] = {}
    ordinals: dict[int, int] = {}
    for i in spoken:
        name = display_name(objects[i].label)
        counts[name] = counts.get(name, 0) + 1
        ordinals[i] = counts[name]
    return {i: (ordinal, counts[display_name(objects[i].label)]) for i, ordinal in ordinals.items()}


def _coordinate(value: float) -> str:
    """Two decimals within 0..1, and never `-0.00`."""
    return f"{min(max(value, 0.0), 1.0) + 0.0:.2f}"


def _object_sentence(
    objects: Sequence[SeenObject], spoken: Sequence[int], numbers: dict[int, tuple[int, int]]
) -> Verbalization:
    items = []
    for i in spoken:
        seen = objects[i]
        box = ", ".join(_coordinate(value) for value in seen.box)
        items.append(
            Part(f"(#{numbers[i][0]} {display_name(seen.label)}) [{box}]", seen.expert, (i,), seen.box)
        )
    return listing("The image includes ", items, ", ", ".")


def _relation_sentence(
    objects: Sequence[SeenObject], relations: Sequence[SeenRelation], numbers: dict[int, tuple[int, int]]
) -> Verbalization:
    def name(index: int) -> str:
        ordinal, of = numbers[index]
        label = display_name(objects[index].label)
        return label if of == 1 else f"{label} (#{ordinal})"

    items = []
    for i, relation in enumerate(relations):
        subject, target = objects[relation.subject], objects[relation.object]
        if relation.subject not in numbers or relation.object not in numbers:
            continue
        text = f"{name(relation.subject)} is {relation.predicate} {name(relation.object)}"
        items.append(Part(text, relation.expert, (i,), union(subject.box, target.box)))
    return listing("The image includes relationships between objects: ", items[:MAX_RELATIONS], ", and ", ".")


def _text_sentence(lines: Sequence[SeenText]) -> Verbalization:
    items = []
    for i, line in enumerate(lines):
        text = " ".join(line.text.split())[:MAX_LINE_CHARACTERS].rstrip()
        if text:
            items.append(Part(text, line.expert, (i,), line.box))
    if not items:
        return EMPTY
    return listing("The image includes text descriptions: ", items[:MAX_LINES], ", and ", ".")
