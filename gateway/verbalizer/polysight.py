"""The verbalization that the small embedded language model reads.

Three sentences joined by one space, empty ones left out:

    The image includes (#1 person) [0.00, 0.16, 0.29, 0.88], (#2 person) [0.31, 0.20, 0.55, 0.90].
    The image includes relationships between objects: person (#1) is riding bicycle.
    The image includes text descriptions: STOP, and EXIT 12.

The first is CoLLaVO's crayon sentence, the other two are MoAI's, with one difference: a relation calls an
object by the number it has in the object sentence (a class spoken of once needs no number), so that the model
can follow it there. Nothing at all to say: `None of detailed object information for image.`

Labels, predicates and lines pass through `gateway.prompt.neutralise_line`: whatever a vocabulary or a sign in the
picture says, no control token and no new turn comes out of here.

Bounds, so that a crowded picture stays within a token budget (about 30 tokens an object, 12 a relation with
a tokenizer that splits digits; some 900 tokens at the worst):
- at most MAX_OBJECTS objects: the largest of each class first, then the largest of the rest;
- at most MAX_RELATIONS relations, in the order given; one that names an object left out is left out;
- at most MAX_LINES lines of text, in the order given, each shortened to MAX_LINE_CHARACTERS characters.
Objects are spoken class by class: the class with the largest object first, within a class the largest first;
equal areas in the order given. Numbers follow that order, so the last number of a class is its count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.prompt import MAX_LINE_CHARACTERS, neutralise_line
from gateway.verbalizer.collavo import NOTHING
from gateway.verbalizer.names import display_name
from gateway.verbalizer.phrase import Box, Part, Verbalization, join, listing, union
from serving.coco import UNLABELLED

MAX_OBJECTS = 20
MAX_RELATIONS = 10
MAX_LINES = 12
MAX_NAME_CHARACTERS = 40


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


def spoken_name(label: str) -> str:
    """The name that an object of this class goes by: without suffixes, harmless, of bounded length; may be empty."""
    return neutralise_line(display_name(label), limit=MAX_NAME_CHARACTERS)


def verbalize_polysight(
    objects: Sequence[SeenObject], relations: Sequence[SeenRelation] = (), lines: Sequence[SeenText] = ()
) -> Verbalization:
    """Put what was seen into the sentences above; phrases carry indices in the sequences given.

    Raises:
        IndexError: a relation refers to an object that is not there.
    """
    for relation in relations:
        if not (0 <= relation.subject < len(objects) and 0 <= relation.object < len(objects)):
            raise IndexError(f"there are {len(objects)} objects, not what {relation} speaks of")
    names = _Names(objects)
    sentences = (
        _object_sentence(objects, names),
        _relation_sentence(objects, relations, names),
        _text_sentence(lines),
    )
    said = [sentence for sentence in sentences if sentence.text]
    return join(said) if said else Verbalization(NOTHING)


class _Names:
    """Which objects are spoken of, in which order, and under which name and number."""

    def __init__(self, objects: Sequence[SeenObject]) -> None:
        labels = [spoken_name(seen.label) for seen in objects]
        by_size = sorted(
            (i for i, label in enumerate(labels) if label and label.casefold() != UNLABELLED),
            key=lambda i: (-objects[i].size, i),
        )
        classes: dict[str, list[int]] = {}
        for i in by_size:
            classes.setdefault(labels[i], []).append(i)
        firsts = {members[0] for members in classes.values()}
        kept = set(sorted(by_size, key=lambda i: i not in firsts)[:MAX_OBJECTS])
        spoken = [[i for i in members if i in kept] for members in classes.values()]
        self._labels = labels
        self._numbers = {i: number for members in spoken for number, i in enumerate(members, start=1)}
        self._alone = {members[0] for members in spoken if len(members) == 1}

    def __contains__(self, index: int) -> bool:
        return index in self._numbers

    def __iter__(self) -> Iterator[int]:
        """Indices of the objects, in the order of the sentence."""
        return iter(self._numbers)

    def numbered(self, index: int) -> str:
        """`(#2 person)`, as the object sentence says it."""
        return f"(#{self._numbers[index]} {self._labels[index]})"

    def short(self, index: int) -> str:
        """`person (#2)`, or `bicycle` if it is the only one, as the relation sentence says it."""
        label = self._labels[index]
        return label if index in self._alone else f"{label} (#{self._numbers[index]})"


def _coordinate(value: float) -> str:
    """Two decimals within 0..1, and never `-0.00`."""
    return f"{min(max(value, 0.0), 1.0) + 0.0:.2f}"


def _object_sentence(objects: Sequence[SeenObject], names: _Names) -> Verbalization:
    items = []
    for i in names:
        seen = objects[i]
        box = ", ".join(_coordinate(value) for value in seen.box)
        items.append(Part(f"{names.numbered(i)} [{box}]", seen.expert, (i,), seen.box))
    return listing("The image includes ", items, ", ", ".")


def _relation_sentence(
    objects: Sequence[SeenObject], relations: Sequence[SeenRelation], names: _Names
) -> Verbalization:
    items = []
    for i, relation in enumerate(relations):
        predicate = neutralise_line(relation.predicate, limit=MAX_NAME_CHARACTERS)
        if not predicate or relation.subject not in names or relation.object not in names:
            continue
        text = f"{names.short(relation.subject)} is {predicate} {names.short(relation.object)}"
        box = union(objects[relation.subject].box, objects[relation.object].box)
        items.append(Part(text, relation.expert, (i,), box))
    return listing("The image includes relationships between objects: ", items[:MAX_RELATIONS], ", and ", ".")


def _text_sentence(lines: Sequence[SeenText]) -> Verbalization:
    texts = [neutralise_line(line.text, limit=MAX_LINE_CHARACTERS) for line in lines]
    items = [
        Part(text, line.expert, (i,), line.box)
        for i, (text, line) in enumerate(zip(texts, lines, strict=True))
        if text
    ]
    return listing("The image includes text descriptions: ", items[:MAX_LINES], ", and ", ".")
