"""CoLLaVO's crayon instructions, word for word (arXiv 2402.11248, section 3.2): three questions about numbered objects.

    Provide multiple object names with their numbering index in the image.
    -> Sure, it is (#1 horse), (#1 person), (#2 person).
    Provide multiple object names with their numbering index and the objects' bounding box coordinates in this image.
    -> Sure, it is (#1 horse) [0.06, 0.38, 0.27, 0.91], (#1 person) [0.30, 0.10, 0.55, 0.90], ...
    Provide multiple bounding box coordinates for horse in the image.
    -> Sure, it is (#1 horse) [0.06, 0.38, 0.27, 0.91].

The stop token that ends each answer is added when it is packed. Boxes are xyxy, normalised, two decimals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llm_server.training.coco_pictures import NumberedObject
from llm_server.training.phrases import box_text
from llm_server.training.question import Question

NAMES: Final = "Provide multiple object names with their numbering index in the image."
NAMES_AND_BOXES: Final = (
    "Provide multiple object names with their numbering index and the objects' bounding box coordinates in this "
    "image."
)
BOXES_OF: Final = "Provide multiple bounding box coordinates for {name} in the image."
_LEAD: Final = "Sure, it is "


def crayon_questions(objects: Sequence[NumberedObject]) -> list[Question]:
    """All crayon questions about these objects: the first two kinds once, the third for each name. None for none."""
    if not objects:
        return []
    out = [
        Question("crayon_names", "object", NAMES, answer(objects, boxes=False)),
        Question("crayon_boxes", "object", NAMES_AND_BOXES, answer(objects, boxes=True)),
    ]
    for name in dict.fromkeys(one.name for one in objects):
        of_name = [one for one in objects if one.name == name]
        out.append(
            Question("crayon_class", "object", BOXES_OF.format(name=name), answer(of_name, boxes=True))
        )
    return out


def answer(objects: Sequence[NumberedObject], *, boxes: bool) -> str:
    """``Sure, it is (#1 horse) [0.06, 0.38, 0.27, 0.91], (#1 person) [...].``"""
    said = [f"(#{one.number} {one.name})" + (f" {box_text(one.box)}" if boxes else "") for one in objects]
    return f"{_LEAD}{', '.join(said)}."
