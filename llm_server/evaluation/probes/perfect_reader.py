"""What a reader without fault would answer from the experts' own output: how far the language model could get.

Readers differ in what they read, never in how they are scored: each gives an answer in words, and the words are marked
as a model's are.

- `reports`: the objects that the gateway puts into words, as the experts reported them: the panoptic things, else the
  detections of at least .5, else the scene graph's objects. This is *the* perfect reader.
- `words`: the objects of the verbalization, if it is of a form with numbered objects; where it falls behind `reports`,
  wording lost something (the number of objects is bounded).
- `detection`: the detections of at least .5, whatever the gateway made of them.

What is in a box is the object that overlaps it most. Boxes are written with two decimals, as the model reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from llm_server.evaluation.harness.example import Example, Record, SeenObject
from llm_server.evaluation.probes.answers import same_class
from llm_server.evaluation.probes.boxes import Box, iou
from llm_server.evaluation.probes.questions import named_boxes, written
from llm_server.evaluation.scoring import normalise

# As the gateway: weaker detections are not put into words.
MIN_DETECTION_SCORE: Final = 0.5
_NUMBERED_OBJECT: Final = re.compile(r"\(#\d+ ([^()]+)\) \[(\d\.\d\d), (\d\.\d\d), (\d\.\d\d), (\d\.\d\d)\]")


def reported(record: Record) -> list[SeenObject]:
    """The objects the gateway puts into words."""
    if record.experts.get("panoptic") == "ok":
        return [seen for seen in record.objects if seen.expert == "panoptic"]
    if record.experts.get("detection") == "ok":
        return detected(record)
    return [seen for seen in record.objects if seen.expert == "scene_graph"]


def detected(record: Record) -> list[SeenObject]:
    """The sure detections."""
    return [
        seen for seen in record.objects if seen.expert == "detection" and seen.score >= MIN_DETECTION_SCORE
    ]


def worded(record: Record) -> list[SeenObject]:
    """The numbered objects of the verbalization."""
    found = []
    for match in _NUMBERED_OBJECT.finditer(record.verbalization):
        x0, y0, x1, y1 = (float(value) for value in match.groups()[1:])
        found.append(SeenObject(match.group(1), (x0, y0, x1, y1), 1.0, "words"))
    return found


READERS: Final[Mapping[str, Callable[[Record], list[SeenObject]]]] = {
    "reports": reported,
    "words": worded,
    "detection": detected,
}


def answer(example: Example, objects: Sequence[SeenObject]) -> str:
    """What a reader of these objects says.

    Raises:
        ValueError: the example is of a group that is not about objects.
    """
    name = normalise(example.details["name"])
    alike = [seen for seen in objects if same_class(normalise(seen.name), name)]
    if example.group == "existence" or example.group.startswith("pope_"):
        return "Yes." if alike else "No."
    if example.group == "count":
        return f"{len(alike)}."
    if example.group == "class_to_box":
        return named_boxes(name, [written(seen.box) for seen in alike]) if alike else f"There is no {name}."
    if example.group == "box_to_class":
        x0, y0, x1, y1 = example.details["box"]
        return f"{_in_box(objects, (x0, y0, x1, y1))}."
    raise ValueError(f"no reader answers {example.group!r}")


def _in_box(objects: Sequence[SeenObject], box: Box) -> str:
    best = max(objects, key=lambda seen: iou(seen.box, box), default=None)
    return best.name if best is not None and iou(best.box, box) > 0 else "nothing"
