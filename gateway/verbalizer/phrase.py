"""What a verbalizer gives back: a text, and for each phrase of it the observation it was made from.

Offsets count Python characters (Unicode code points), so that `text[phrase.start:phrase.end]` is the phrase.
Boxes are xyxy, normalised to the image as sent (0, 0 = upper left corner; 1, 1 = lower right corner).
Pure: no numpy, no wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Box: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1, normalised to the image as sent."""


@dataclass(frozen=True)
class Phrase:
    """One stretch of a verbalization and where it comes from.

    Attributes:
        start, end: character offsets in the text, end exclusive.
        expert: name of the expert that saw it ("panoptic", "detection", "scene_graph", "ocr").
        sources: indices in the sequence of observations that the verbalizer was given for this expert.
        box: the region it speaks of, or None where the observation has none. For a relation: the smallest box
            around subject and object.
    """

    start: int
    end: int
    expert: str
    sources: tuple[int, ...]
    box: Box | None = None


@dataclass(frozen=True)
class Verbalization:
    """Sentences with their provenance; phrases in the order of the text, never overlapping."""

    text: str
    phrases: tuple[Phrase, ...] = ()


@dataclass(frozen=True)
class Part:
    """A piece of a sentence before its place in the text is known; a part without expert is plain wording."""

    text: str
    expert: str = ""
    sources: tuple[int, ...] = ()
    box: Box | None = None


EMPTY = Verbalization("")


def compose(parts: Sequence[Part]) -> Verbalization:
    """Set parts one after another and note where each one that has an expert ended up."""
    phrases: list[Phrase] = []
    offset = 0
    for part in parts:
        end = offset + len(part.text)
        if part.expert and part.text:
            phrases.append(Phrase(offset, end, part.expert, part.sources, part.box))
        offset = end
    return Verbalization("".join(part.text for part in parts), tuple(phrases))


def listing(lead: str, items: Sequence[Part], separator: str, end: str) -> Verbalization:
    """`lead` + items joined by `separator` + `end`; without items the empty verbalization."""
    if not items:
        return EMPTY
    parts = [Part(lead)]
    for index, item in enumerate(items):
        if index:
            parts.append(Part(separator))
        parts.append(item)
    parts.append(Part(end))
    return compose(parts)


def join(verbalizations: Sequence[Verbalization], separator: str = " ") -> Verbalization:
    """Join texts by `separator` (empty ones too, as the MoAI form wants it) and move their phrases along."""
    phrases: list[Phrase] = []
    offset = 0
    for index, piece in enumerate(verbalizations):
        if index:
            offset += len(separator)
        phrases.extend(
            Phrase(p.start + offset, p.end + offset, p.expert, p.sources, p.box) for p in piece.phrases
        )
        offset += len(piece.text)
    return Verbalization(separator.join(piece.text for piece in verbalizations), tuple(phrases))


def union(first: Box, second: Box) -> Box:
    """Smallest box around two boxes."""
    return (
        min(first[0], second[0]),
        min(first[1], second[1]),
        max(first[2], second[2]),
        max(first[3], second[3]),
    )
