"""Questions of the ``object`` adapter: listing, counting, class to boxes, box to class."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from llm_server.training.phrases import (
    box_text,
    counted_list,
    label,
    listed,
    noun_forms,
    picture,
    sentence,
    the,
)
from llm_server.training.question import ONE_WORD, Family, Question
from llm_server.training.scenes import Scene, SceneObject
from llm_server.training.vocabulary import CATEGORIES, MASS_CATEGORIES, THINGS, UNCOUNTED, article, plural

_HOW_MANY: Final = (
    "How many {many} are in the {pic}?",
    "How many {many} are there in the {pic}?",
    "How many {many} are there?",
    "How many {many} can you see?",
    "How many {many} do you see in the {pic}?",
    "How many {many} does the {pic} show?",
    "Count the {many}.",
    "Count the {many} in the {pic}.",
    "What is the number of {many} in the {pic}?",
    "Tell me how many {many} there are.",
    "how many {many} are in this {pic}",
)
_LIST_NUMBERED: Final = (
    "Provide multiple object names with their numbering index in the image.",
    "List the objects with their numbers.",
    "Name every object in the {pic} with its number.",
)
_LIST_BOXES: Final = (
    "Provide multiple object names with their numbering index and the objects' bounding box coordinates in this image.",
    "List all objects with their boxes.",
)
_LIST_NAMES: Final = (
    "What objects are in the {pic}?",
    "What is in the {pic}?",
    "What can you see in the {pic}?",
    "What do you see?",
    "Which objects are in the {pic}?",
    "List the objects in the {pic}.",
    "Name the objects in the {pic}.",
)
_CLASS_BOXES: Final = (
    "Provide multiple bounding box coordinates for {one} in the image.",
    "Give the bounding boxes of all {many} in the {pic}.",
    "Where are the {many}? Give their boxes.",
    "What are the box coordinates of the {one}?",
)
_CATEGORY: Final = (
    "What {noun} {be} in the {pic}?",
    "Which {noun} {be} in the {pic}?",
    "What {noun} can you see?",
    "What {noun} can be seen in the {pic}?",
    "What kind of {noun} {be} in the {pic}?",
    "Which {noun} do you see in the {pic}?",
    "What {noun} {be} shown in the {pic}?",
    "What {noun} {be} this?",
    "What {noun} {be} there?",
)
B2C: Final = (
    "Given that [0.0, 0.0] is the upper-left corner and [1.0, 1.0] the bottom-right corner of the image, what is the "
    "main object in the box {box}? Answer with a single word or phrase."
)
_BOX_CLASS: Final = (
    B2C,
    "What is at {box}?",
    "What object is in the box {box}?",
    "What is inside {box}?",
    "Which object has the box {box}?",
)


def _countable(scene: Scene) -> list[str]:
    return [name for name in scene.counts() if name not in UNCOUNTED]


def absent_name(rng: random.Random, scene: Scene) -> str:
    """A class that is not there: half the time one that would fit beside those that are."""
    here = scene.counts()
    if here and rng.random() < 0.5:
        rows = [row for row in CATEGORIES.values() if any(name in here for name in row)]
        near = [name for row in rows for name in row if name not in here and name not in UNCOUNTED]
        if near:
            return rng.choice(near)
    while True:
        name = rng.choice(THINGS)
        if name not in here and name not in UNCOUNTED:
            return name


def count(rng: random.Random, scene: Scene, *, absent_share: float = 0.12) -> Question | None:
    """How many of a class: 1 to 8, mostly those that are there more than once; 0 in ``absent_share`` of cases."""
    counts = scene.counts()
    names = _countable(scene)
    absent = not names or rng.random() < absent_share
    name = (
        absent_name(rng, scene)
        if absent
        else rng.choices(
            names, weights=[1.0 if counts[n] == 1 else 2.0 + 0.5 * min(counts[n], 5) for n in names]
        )[0]
    )
    n = counts[name]
    if n > 8:
        return None
    one, many = noun_forms(rng, name)
    pic = picture(rng)
    text = rng.choice(_HOW_MANY).format(many=many, pic=pic)
    if rng.random() < 0.3:
        return Question("count", "object", f"{text} {rng.choice(ONE_WORD)}", f"{n}.")
    if n == 0:
        return Question("count", "object", text, f"There are no {many} in the picture.")
    what = f"There is 1 {one}" if n == 1 else f"There are {n} {many}"
    return Question("count", "object", text, f"{what} in the picture.")


def count_category(rng: random.Random, scene: Scene) -> Question | None:
    """How many vehicles, animals ...: the sum over the classes of a category."""
    category = rng.choice([c for c in CATEGORIES if c not in MASS_CATEGORIES])
    n = sum(k for name, k in scene.counts().items() if name in CATEGORIES[category])
    if (n == 0 and rng.random() < 0.75) or n > 8:
        return None
    text = rng.choice(_HOW_MANY).format(many=plural(category), pic=picture(rng))
    if n == 0:
        return Question("count_category", "object", text, f"There are no {plural(category)} in the picture.")
    what = f"There is 1 {category}" if n == 1 else f"There are {n} {plural(category)}"
    return Question("count_category", "object", text, f"{what} in the picture.")


def list_names(rng: random.Random, scene: Scene) -> Question | None:
    """What is in the picture, counted per class."""
    text = rng.choice(_LIST_NAMES).format(pic=picture(rng))
    if not scene.objects:
        return Question("list", "object", text, "No objects were found in the picture.")
    return Question("list", "object", text, sentence(counted_list(scene.counts())))


def _labels(objects: Sequence[SceneObject], *, boxes: bool) -> str:
    return ", ".join(f"(#{o.number} {o.name})" + (f" {box_text(o.box)}" if boxes else "") for o in objects)


def list_numbered(rng: random.Random, scene: Scene) -> Question | None:
    """The crayon instruction: every object with its number."""
    if not scene.objects or len(scene.objects) > 9:
        return None
    text = rng.choice(_LIST_NUMBERED).format(pic=picture(rng))
    return Question("list_numbered", "object", text, f"Sure, it is {_labels(scene.objects, boxes=False)}.")


def list_boxes(rng: random.Random, scene: Scene) -> Question | None:
    """The crayon instruction: every object with its number and box."""
    if not scene.objects or len(scene.objects) > 4:
        return None
    return Question(
        "list_boxes", "object", rng.choice(_LIST_BOXES), f"Sure, it is {_labels(scene.objects, boxes=True)}."
    )


def class_boxes(rng: random.Random, scene: Scene) -> Question | None:
    """The boxes of one class."""
    if not scene.objects:
        return None
    if rng.random() < 0.1:
        name = absent_name(rng, scene)
        text = rng.choice(_CLASS_BOXES).format(one=name, many=plural(name), pic=picture(rng))
        return Question("class_boxes", "object", text, f"There is no {name} in the picture.")
    name = rng.choice(list(scene.counts()))
    found = scene.named(name)
    if len(found) > 3:
        return None
    text = rng.choice(_CLASS_BOXES).format(one=name, many=plural(name), pic=picture(rng))
    return Question("class_boxes", "object", text, f"Sure, it is {_labels(found, boxes=True)}.")


def box_class(rng: random.Random, scene: Scene) -> Question | None:
    """The class of one box; the box is given as listed."""
    if not scene.objects:
        return None
    seen = rng.choice(scene.objects)
    if sum(o.box == seen.box for o in scene.objects) > 1:
        return None
    form = rng.choice(_BOX_CLASS)
    text = form.format(box=box_text(seen.box))
    answer = seen.name if form is B2C else the(scene, seen)
    return Question("box_class", "object", text, sentence(answer))


def category(rng: random.Random, scene: Scene) -> Question | None:
    """What vehicle, animal, food ... is in the picture, counted per class."""
    here = [c for c, row in CATEGORIES.items() if any(name in scene.counts() for name in row)]
    absent = not here or rng.random() < 0.15
    kind = rng.choice([c for c in CATEGORIES if c not in here] or here) if absent else rng.choice(here)
    found = {name: n for name, n in scene.counts().items() if name in CATEGORIES[kind]}
    many = kind not in MASS_CATEGORIES and rng.random() < 0.4
    noun, be = (plural(kind), "are") if many else (kind, "is")
    text = rng.choice(_CATEGORY).format(noun=noun, be=be, pic=picture(rng))
    if len(found) == 1 and rng.random() < 0.2:
        return Question("category", "object", f"{text} {rng.choice(ONE_WORD)}", sentence(next(iter(found))))
    if found:
        return Question("category", "object", text, sentence(counted_list(found)))
    no = f"There is no {kind}" if kind in MASS_CATEGORIES or not many else f"There are no {plural(kind)}"
    return Question("category", "object", text, f"{no} in the picture.")


def extreme(rng: random.Random, scene: Scene) -> Question | None:
    """The biggest object: the first that is listed."""
    if not scene.objects:
        return None
    noun, index = rng.choice((("biggest", 0), ("largest", 0)))
    text = rng.choice(("What is the {a} object in the {pic}?", "Which object is the {a}?")).format(
        a=noun, pic=picture(rng)
    )
    return Question("extreme", "object", text, sentence(the(scene, scene.objects[index])))


def most(rng: random.Random, scene: Scene) -> Question | None:
    """Which classes are there more than once."""
    several = [f"{n} {plural(name)}" for name, n in scene.counts().items() if n > 1 and name not in UNCOUNTED]
    text = rng.choice(("Which objects are there more than once?", "What is there more than one of?"))
    return Question("several", "object", text, sentence(listed(several)) if several else "Nothing.")


def single(rng: random.Random, scene: Scene) -> Question | None:
    """Which class is object number k of a name: reads one listed box."""
    numbered = [o for o in scene.objects if len(scene.named(o.name)) > 1]
    if not numbered:
        return None
    seen = rng.choice(numbered)
    text = rng.choice(("Where is {x}? Give its box.", "Give the box of {x}.")).format(x=label(scene, seen))
    return Question(
        "one_box", "object", text, f"Sure, it is (#{seen.number} {seen.name}) {box_text(seen.box)}."
    )


def only(rng: random.Random, scene: Scene) -> Question | None:
    """What is there exactly one of, by its article."""
    names = [name for name, n in scene.counts().items() if n == 1]
    text = rng.choice(("Which objects are there only once?", "What is there only one of?"))
    return Question(
        "once", "object", text, sentence(listed([article(n) for n in names])) if names else "Nothing."
    )


FAMILIES: Final[tuple[Family, ...]] = (
    Family("count", "object", 5.0, count),
    Family("count_category", "object", 0.7, count_category),
    Family("category", "object", 2.5, category),
    Family("list", "object", 1.0, list_names),
    Family("list_numbered", "object", 0.4, list_numbered),
    Family("list_boxes", "object", 0.15, list_boxes),
    Family("class_boxes", "object", 0.5, class_boxes),
    Family("box_class", "object", 0.7, box_class),
    Family("one_box", "object", 0.2, single),
    Family("extreme", "object", 0.2, extreme),
    Family("several", "object", 0.15, most),
    Family("once", "object", 0.15, only),
)
