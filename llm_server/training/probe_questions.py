"""Object-level questions of the dual run: the published probes (C2B, B2C, class to boxes), and how to decline.

The wording is that of the papers and of the evaluation's probes, letter for letter (a test compares them). What is
asked about things that were not seen is declined: no box is ever made up. Boxes of questions are as often those of an
annotator, a little beside the expert's, as those listed.

Only the dual run draws these: the data of the scenes recipe stays what its card says.
"""

from __future__ import annotations

import random
from typing import Final

from llm_server.training.object_questions import absent_name
from llm_server.training.phrases import box_text, listed, picture, sentence, the
from llm_server.training.question import YES_NO, Family, Question
from llm_server.training.scenes import Box, Scene
from llm_server.training.vocabulary import UNCOUNTED, article, plural

#: Said where the experts saw nothing that would tell.
DECLINED: Final = "I can't tell from the picture."

#: C2B as CoLLaVO's paper asks it, and without its middle sentence.
C2B_FORMS: Final = (
    'Is there an instance of the category "{name}" in the image? There may be multiple instances which are grouped '
    "together. Answer the question using either yes or no.",
    'Is there an instance of the category "{name}" in the image? Answer the question using either yes or no.',
)
#: B2C as CoLLaVO's paper asks it, and a shorter form.
B2C_FORMS: Final = (
    "Let's say the upper left corner of the image is [0.0, 0.0], the bottom right corner of the image is [1.0, 1.0]. "
    "What is the main object whose upper left corner is [{x0}, {y0}] and whose bottom right corner is [{x1}, {y1}] in "
    "the image? Answer the question using a single word or phrase.",
    "Given that [0.0, 0.0] is the upper-left corner and [1.0, 1.0] the bottom-right corner of the image, what is the "
    "main object in the box [{x0}, {y0}, {x1}, {y1}]? Answer with a single word or phrase.",
)
#: The ending of both published systems for short answers, on a line of its own.
SHORT_ENDING: Final = "\nAnswer the question using a single word or phrase."
POPE_FORM: Final = "Is there {a_name} in the image?" + SHORT_ENDING
CLASS_BOXES_FORM: Final = "Provide multiple bounding box coordinates for {name} in the image."
_BOXES: Final = (
    CLASS_BOXES_FORM,
    CLASS_BOXES_FORM,
    "Give the bounding boxes of all {many} in the {pic}.",
    "Where are the {many}? Give their boxes.",
    "What are the box coordinates of the {name}?",
    "Mark every {name} with its box.",
    "I need the coordinates of each {name}.",
    "Locate the {many}: boxes only.",
)
_OPEN_BOX: Final = (
    "What is at {box}?",
    "What object is in the box {box}?",
    "What is inside {box}?",
    "Which object has the box {box}?",
    "Name the thing that fills {box}.",
)
_ONE_BOX: Final = ("Where is {x}? Give its box.", "Give the box of {x}.", "What is the box of {x}?")
_ABSENT: Final = (
    "What is the {name} doing?",
    "What is the {name} doing in the {pic}?",
    "Where is the {name}?",
    "Where in the {pic} is the {name}?",
    "What is beside the {name}?",
    "What colour is the {name}?",
    "How big is the {name}?",
    "What is the {name} looking at?",
    "Who is next to the {name}?",
    "What does the {name} look like?",
    "Is the {name} on the left or on the right?",
    "What is on top of the {name}?",
)
_UNSEEN: Final = (
    "What colour is the {x}?", "What color are the walls?", "What is the weather like?", "What time is it?",
    "How old is the {x}?", "What is the name of the {x}?", "Where was this {pic} taken?", "Who took this {pic}?",
    "Is the {x} happy?", "What season is it?", "How much does the {x} weigh?", "What is the {x} made of?",
    "Which year is it?", "What does the {x} think?", "How fast is the {x}?", "Who owns the {x}?",
    "What happens next?", "What is behind the camera?",
)  # fmt: skip
#: Standard deviation of each side of an annotator's box, in shares of the box's width or height.
_ANNOTATOR: Final = 0.05
_SAME: Final = 0.5
_CLEARLY: Final = 0.15
_MOST_BOXES: Final = 8


def absent_answer(name: str) -> str:
    """How to decline a question that takes for granted what was not seen."""
    return f"{DECLINED[:-1]}: there is no {name}."


def class_to_binary(rng: random.Random, scene: Scene) -> Question | None:
    """C2B and POPE: is there one of this category, yes or no."""
    counts = scene.counts()
    present = bool(counts) and rng.random() < 0.5
    name = rng.choice(list(counts)) if present else absent_name(rng, scene)
    form = rng.choices((*C2B_FORMS, POPE_FORM), weights=(3, 1, 2))[0]
    text = form.format(name=name, a_name=article(name))
    return Question("existence", "object", text, "Yes." if present else "No.")


def class_to_boxes(rng: random.Random, scene: Scene, *, absent_share: float = 0.25) -> Question | None:
    """The boxes of one class, up to eight; one that is not there has none."""
    names = [name for name, n in scene.counts().items() if n <= _MOST_BOXES]
    absent = not names or rng.random() < absent_share
    name = absent_name(rng, scene) if absent else rng.choice(names)
    many = name if name in UNCOUNTED else plural(name)
    text = rng.choice(_BOXES).format(name=name, many=many, pic=picture(rng))
    if absent:
        return Question("class_boxes", "object", text, absent_answer(name))
    said = ", ".join(f"(#{o.number} {o.name}) {box_text(o.box)}" for o in scene.named(name))
    return Question("class_boxes", "object", text, f"Sure, it is {said}.")


def box_to_class(rng: random.Random, scene: Scene) -> Question | None:
    """B2C: the class of what fills a box, as listed or as an annotator would have drawn it; or nothing does."""
    if rng.random() < 0.08:
        return _empty_box(rng, scene)
    if not scene.objects:
        return None
    box = rng.choice(scene.objects).box
    if rng.random() < 0.6:
        box = _redrawn(rng, box)
    by_overlap = sorted(((_iou(o.box, box), o) for o in scene.objects), key=lambda pair: -pair[0])
    best, seen = by_overlap[0]
    # Another class may not fit nearly as well.
    if best < _SAME or any(
        overlap > best - _CLEARLY and o.name != seen.name for overlap, o in by_overlap[1:]
    ):
        return None
    if rng.random() < 0.65:
        x0, y0, x1, y1 = (f"{value:.2f}" for value in box)
        text = rng.choices(B2C_FORMS, weights=(2, 1))[0].format(x0=x0, y0=y0, x1=x1, y1=y1)
        return Question("box_class", "object", text, sentence(seen.name))
    return Question(
        "box_class",
        "object",
        rng.choice(_OPEN_BOX).format(box=box_text(box)),
        sentence(the(scene, seen)),
        seen.name,
    )


def one_box(rng: random.Random, scene: Scene) -> Question | None:
    """The box of number k of a class; now and then there are not so many."""
    several = [name for name, n in scene.counts().items() if n > 1]
    if not several:
        return None
    name = rng.choice(several)
    found = scene.named(name)
    if rng.random() < 0.2:
        number = len(found) + rng.randint(1, 3)
        text = rng.choice(_ONE_BOX).format(x=f"{name} (#{number})")
        be = f"there are {len(found)} {plural(name)}"
        return Question("one_box", "object", text, f"{DECLINED[:-1]}: {be}.")
    seen = rng.choice(found)
    text = rng.choice(_ONE_BOX).format(x=f"{name} (#{seen.number})")
    return Question("one_box", "object", text, f"Sure, it is (#{seen.number} {name}) {box_text(seen.box)}.")


def absent_thing(rng: random.Random, scene: Scene) -> Question | None:
    """A question that takes for granted what is not there."""
    name = absent_name(rng, scene)
    text = rng.choice(_ABSENT).format(name=name, pic=picture(rng))
    return Question("absent", "vl", text, absent_answer(name))


def unseen(rng: random.Random, scene: Scene) -> Question | None:
    """What no expert reports of things that are there: colour, weather, age, names."""
    if not scene.objects:
        return None
    name = rng.choice(scene.objects).name
    return Question("unknown", "vl", rng.choice(_UNSEEN).format(x=name, pic=picture(rng)), DECLINED)


def several_absent(rng: random.Random, scene: Scene) -> Question | None:
    """Which of some classes are there: those that are, or none of them."""
    names = [name for name in scene.counts() if name not in UNCOUNTED]
    here = rng.sample(names, min(len(names), rng.randint(0, 2)))
    asked = [*here]
    while len(asked) < 3:
        other = absent_name(rng, scene)
        if other not in asked:
            asked.append(other)
    rng.shuffle(asked)
    text = rng.choice(("Which of these are in the {pic}: {them}?", "Do you see {them}?")).format(
        pic=picture(rng), them=listed([article(name) for name in asked]).replace(" and ", " or ")
    )
    there = [article(name) for name in asked if name in here]
    answer = f"There is {listed(there)}." if there else "None of them is in the picture."
    return Question("which_of", "object", text, answer)


def _empty_box(rng: random.Random, scene: Scene) -> Question | None:
    for _ in range(10):
        x0, y0 = rng.uniform(0, 0.85), rng.uniform(0, 0.85)
        x1, y1 = x0 + rng.uniform(0.05, 0.15), y0 + rng.uniform(0.05, 0.15)
        box = (round(x0, 2), round(y0, 2), round(x1, 2), round(y1, 2))
        if all(not _touch(o.box, box) for o in scene.objects):
            text = rng.choice(_OPEN_BOX).format(box=box_text(box))
            return Question("box_class", "object", text, "Nothing was seen there.", "nothing")
    return None


def _redrawn(rng: random.Random, box: Box) -> Box:
    """The box as another hand would draw it; never without an area."""
    x0, y0, x1, y1 = box
    across, down = _ANNOTATOR * (x1 - x0), _ANNOTATOR * (y1 - y0)
    left, right = (round(min(1.0, max(0.0, v + rng.gauss(0, across))), 2) for v in (x0, x1))
    top, bottom = (round(min(1.0, max(0.0, v + rng.gauss(0, down))), 2) for v in (y0, y1))
    return (left, top, right, bottom) if left < right and top < bottom else box


def _touch(one: Box, other: Box) -> bool:
    return min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(one[1], other[1])


def _iou(one: Box, other: Box) -> float:
    if not _touch(one, other):
        return 0.0
    both = (min(one[2], other[2]) - max(one[0], other[0])) * (min(one[3], other[3]) - max(one[1], other[1]))
    return both / (_area(one) + _area(other) - both)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


#: Yes and no without anything around it, for questions that end in an instruction.
BARE_ENDINGS: Final = (*YES_NO, SHORT_ENDING)

OBJECT_FAMILIES: Final = (
    Family("existence", "object", 2.5, class_to_binary),
    Family("class_boxes", "object", 2.5, class_to_boxes),
    Family("box_class", "object", 2.5, box_to_class),
    Family("one_box", "object", 0.5, one_box),
    Family("which_of", "object", 0.4, several_absent),
)
VL_FAMILIES: Final = (
    Family("absent", "vl", 1.2, absent_thing),
    Family("unknown", "vl", 0.6, unseen),
)
