"""The crayon sentence of CoLLaVO: every object with its number within its class and its box.

    The image includes (#1 person) [0.00, 0.16, 0.29, 0.88], (#2 person) [0.31, 0.20, 0.55, 0.90].
    None of detailed object information for image.

One space and the question follow. Numbers count display names in the order given; the index maps count label ids
by ascending segment id (`gateway.crayon`). The two agree on everything the panoptic network can give, because it
lists segments by ascending id and no two of its class names share a display name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.verbalizer.coordinates import box_text
from gateway.verbalizer.names import display_name
from gateway.verbalizer.phrase import Box, Part, Verbalization, listing

NOTHING = "None of detailed object information for image."


@dataclass(frozen=True)
class CrayonObject:
    """A named segment. `label` is the class name with its suffixes, `box` normalised xyxy (max exclusive)."""

    label: str
    box: Box


def verbalize_collavo(objects: Sequence[CrayonObject]) -> Verbalization:
    """The crayon sentence, with one phrase an object; NOTHING (without phrases) if there is none."""
    if not objects:
        return Verbalization(NOTHING)
    counts: dict[str, int] = {}
    items: list[Part] = []
    for index, seen in enumerate(objects):
        name = display_name(seen.label)
        counts[name] = counts.get(name, 0) + 1
        items.append(Part(f"(#{counts[name]} {name}) {box_text(seen.box)}", "panoptic", (index,), seen.box))
    return listing("The image includes ", items, ", ", ".")


def crayon_question(verbalization: Verbalization, question: str) -> str:
    """What goes between the turn markers: the sentence, one space, the question."""
    return f"{verbalization.text} {question}"
