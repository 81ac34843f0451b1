"""The four sentences of MoAI's auxiliary text: panoptic regions, detections, relations, text lines.

    The image includes bounding box coordinates and their objects: [0.10, 0.20, 0.30, 0.40] cat, and [...] dog.
    The image includes relationships between objects: person (#1) is holding cup, and person (#2) is over grass.
    The image includes text descriptions: STOP, and EXIT 12.

The first form serves regions and detections alike. A missing sentence is the empty string, and the four are joined
by one space in the order above without leaving empty ones out: nothing seen at all is three spaces.
Names of regions and of related objects lose their suffixes; names of detections are written as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.verbalizer.coordinates import box_text
from gateway.verbalizer.names import display_name
from gateway.verbalizer.phrase import EMPTY, Box, Part, Verbalization, join, listing, union

MIN_DETECTION_SCORE = 0.5
MIN_RELATION_SCORE = 0.8
MIN_TEXT_CONFIDENCE = 0.85
MAX_RELATIONS = 10

_BOXES = "The image includes bounding box coordinates and their objects: "
_RELATIONS = "The image includes relationships between objects: "
_TEXTS = "The image includes text descriptions: "
_AND = ", and "


@dataclass(frozen=True)
class Region:
    """A panoptic segment: class name with its suffixes, normalised xyxy box."""

    label: str
    box: Box


@dataclass(frozen=True)
class Detection:
    """A detected object: any name, normalised xyxy box (may leave 0..1), score 0..1."""

    label: str
    box: Box
    score: float


@dataclass(frozen=True)
class RelatedObject:
    """An object that relations refer to by its place in the sequence."""

    label: str
    box: Box | None = None


@dataclass(frozen=True)
class Relation:
    """`subject` and `object` are indices in the sequence of objects given along with it; score 0..1."""

    subject: int
    predicate: str
    object: int
    score: float


@dataclass(frozen=True)
class TextLine:
    """A line of text, confidence 0..1, and the smallest box around it."""

    text: str
    confidence: float
    box: Box | None = None


def verbalize_regions(regions: Sequence[Region]) -> Verbalization:
    """Every region, repeated classes without a number."""
    items = [
        Part(f"{box_text(region.box)} {display_name(region.label)}", "panoptic", (index,), region.box)
        for index, region in enumerate(regions)
    ]
    return listing(_BOXES, items, _AND, ".")


def verbalize_detections(
    detections: Sequence[Detection], *, min_score: float = MIN_DETECTION_SCORE
) -> Verbalization:
    """The detections with at least `min_score`, in the order given."""
    items = [
        Part(f"{box_text(seen.box)} {seen.label}", "detection", (index,), seen.box)
        for index, seen in enumerate(detections)
        if seen.score >= min_score
    ]
    return listing(_BOXES, items, _AND, ".")


def verbalize_relations(
    objects: Sequence[RelatedObject],
    relations: Sequence[Relation],
    *,
    min_score: float = MIN_RELATION_SCORE,
) -> Verbalization:
    """The relations with at least `min_score`, in the order given; which ten to give is the caller's choice.

    A display name that occurs more than once among the objects gets ` (#k)`, k counted over the objects in their
    order, also where only one of them is in a relation.

    Raises:
        IndexError: a relation refers to an object that is not there.
    """
    names = _numbered([display_name(seen.label) for seen in objects])
    items = []
    for index, relation in enumerate(relations):
        if relation.score < min_score:
            continue
        text = f"{names[relation.subject]} is {relation.predicate} {names[relation.object]}"
        first, second = objects[relation.subject].box, objects[relation.object].box
        box = union(first, second) if first is not None and second is not None else None
        items.append(Part(text, "scene_graph", (index,), box))
    return listing(_RELATIONS, items, _AND, ".")


def verbalize_text(
    lines: Sequence[TextLine], *, min_confidence: float = MIN_TEXT_CONFIDENCE
) -> Verbalization:
    """The lines with at least `min_confidence`, in the order given and letter for letter.

    Nothing is escaped here: clean what an OCR engine read with `gateway.prompt.neutralise_line` first.
    """
    kept = [(index, line) for index, line in enumerate(lines) if line.confidence >= min_confidence]
    if not kept:
        return EMPTY
    return listing(_TEXTS, [Part(line.text, "ocr", (index,), line.box) for index, line in kept], _AND, ".")


def join_moai(
    regions: Verbalization, detections: Verbalization, relations: Verbalization, text: Verbalization
) -> Verbalization:
    """The four sentences in their order, one space between each two, empty ones included."""
    return join((regions, detections, relations, text))


def strongest_relations(relations: Sequence[Relation], *, objects: int) -> list[Relation]:
    """The relations worth telling: the best min(MAX_RELATIONS, number of objects), strongest first.

    Equal scores keep the order given. The reference takes the same ones in the order of numpy's argpartition,
    which differs between numpy versions.
    """
    ranked = sorted(relations, key=lambda relation: -relation.score)
    return ranked[: min(MAX_RELATIONS, objects)]


def _numbered(names: Sequence[str]) -> list[str]:
    """Names with ` (#k)` behind those that occur more than once."""
    totals = Counter(names)
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name} (#{seen[name]})" if totals[name] > 1 else name)
    return numbered
