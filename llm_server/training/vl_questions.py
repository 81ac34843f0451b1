"""Questions of the ``vl`` adapter: existence, text, position, a short description; and its families in all."""

from __future__ import annotations

import random
from typing import Final

from llm_server.training.object_questions import absent_name
from llm_server.training.phrases import counted_list, noun_forms, picture, sentence, the
from llm_server.training.plausible import TEXT_WORDS
from llm_server.training.question import YES_NO, Family, Question
from llm_server.training.relation_questions import (
    UNKNOWN,
    doing,
    doing_class,
    phrase,
    place,
    relation_between,
    relation_object,
    relation_subject,
    relation_true,
    where,
)
from llm_server.training.scenes import Scene
from llm_server.training.vocabulary import CATEGORIES, UNCOUNTED, article, plural

C2B: Final = (
    'Is there an instance of the category "{name}" in the image? Answer the question using either yes or no.'
)
_EXISTS: Final = (
    "Is there {a_one} in the {pic}?",
    "Is there {a_one}?",
    "Is there any {one} in the {pic}?",
    "Are there any {many} in the {pic}?",
    "Are there {many} in the {pic}?",
    "Can you see {a_one}?",
    "Do you see {a_one} in the {pic}?",
    "Does the {pic} show {a_one}?",
    "Does the {pic} contain {a_one}?",
)
_WRITTEN: Final = (
    "What does the text say?",
    "What is written in the {pic}?",
    "What text is in the {pic}?",
    "What text can you read?",
    "Read the text.",
    "Read the text in the {pic}.",
    "What does it say?",
    "Which words are in the {pic}?",
    "What words can you read in the {pic}?",
    "What do the signs say?",
    "What does the sign say?",
)
_WRITTEN_ON: Final = (
    "What is written on the {x}?",
    "What does the {x} say?",
    "What text is on the {x}?",
    "Which words are on the {x}?",
    "What can you read on the {x}?",
)
_BEARERS: Final = (
    "bus",
    "truck",
    "train",
    "car",
    "stop sign",
    "sign",
    "wall",
    "shirt",
    "bottle",
    "building",
    "book",
    "tv",
)
_ANY_TEXT: Final = (
    "Is there any text in the {pic}?",
    "Is there text in the {pic}?",
    "Is there any writing in the {pic}?",
    "Can you read anything in the {pic}?",
)
_SAYS: Final = (
    'Does it say "{w}"?',
    'Is the word "{w}" in the {pic}?',
    'Can you read "{w}" in the {pic}?',
    'Is "{w}" written in the {pic}?',
)
_DESCRIBE: Final = (
    "Describe the {pic}.",
    "What is happening in the {pic}?",
    "What does the {pic} show?",
    "Give a short description of the {pic}.",
    "Summarise the {pic}.",
    "What is this a {pic} of?",
)
_UNKNOWN: Final = (
    "What colour is the {x}?", "What color is the {x}?", "What is the weather like?", "What time is it?",
    "How old is the {x}?", "What is the name of the {x}?", "Where was this {pic} taken?", "Who took this {pic}?",
    "Is the {x} happy?", "What season is it?",
)  # fmt: skip
NO_TEXT: Final = "There is no text in the picture."


def side(rng: random.Random, scene: Scene) -> Question | None:
    """On which side of the picture; nothing near the borders of the three."""
    clear = [o for o in scene.objects if min(abs(o.centre[0] - 0.36), abs(o.centre[0] - 0.64)) > 0.05]
    if not clear:
        return None
    seen = rng.choice(clear)
    text = rng.choice(
        (
            "Is {x} on the left or on the right?",
            "On which side of the {pic} is {x}?",
            "Which part of the {pic} is {x} in?",
        )
    ).format(x=the(scene, seen), pic=picture(rng))
    return Question("position", "vl", text, sentence(f"{the(scene, seen)} is {place(seen)}"))


def left_right(rng: random.Random, scene: Scene) -> Question | None:
    """Is one object to the left of another, above it, ...: yes or no, where the centres differ clearly."""
    if len(scene.objects) < 2:
        return None
    a, b = rng.sample(scene.objects, 2)
    axis = rng.choice((0, 0, 1))
    gap = b.centre[axis] - a.centre[axis]
    if abs(gap) < 0.15:
        return None
    words = ("to the left of", "to the right of") if axis == 0 else ("above", "below")
    which = rng.randrange(2)
    true = (gap > 0) == (which == 0)
    text = f"Is {the(scene, a)} {words[which]} {the(scene, b)}?"
    return Question("position", "vl", text, "Yes." if true else "No.")


def bigger(rng: random.Random, scene: Scene) -> Question | None:
    """Which of two is bigger, where one covers at least twice as much."""
    if len(scene.objects) < 2:
        return None
    a, b = rng.sample(scene.objects, 2)
    if max(a.area, b.area) < 2 * min(a.area, b.area):
        return None
    big, small = (a, b) if a.area > b.area else (b, a)
    noun, answer = rng.choice((("bigger", big), ("larger", big), ("smaller", small)))
    text = f"Which is {noun}, {the(scene, a)} or {the(scene, b)}?"
    return Question("bigger", "vl", text, sentence(the(scene, answer)))


def existence(rng: random.Random, scene: Scene) -> Question | None:
    """Is there a dog? Yes with how many, or no."""
    counts = scene.counts()
    present = bool(counts) and rng.random() < 0.5
    name = rng.choice(list(counts)) if present else absent_name(rng, scene)
    if rng.random() < 0.15:
        return Question("existence", "vl", C2B.format(name=name), "Yes." if present else "No.")
    one, many = noun_forms(rng, name)
    forms = _EXISTS if name not in UNCOUNTED else _EXISTS[2:3]
    text = rng.choice(forms).format(one=one, a_one=article(one), many=many, pic=picture(rng))
    if rng.random() < 0.25:
        return Question("existence", "vl", f"{text} {rng.choice(YES_NO)}", "Yes." if present else "No.")
    if not present:
        return Question("existence", "vl", text, f"No, there is no {one} in the picture.")
    n = counts[name]
    if name in UNCOUNTED:
        return Question("existence", "vl", text, f"Yes, there is {name} in the picture.")
    what = f"there is 1 {one}" if n == 1 else f"there are {n} {many}"
    return Question("existence", "vl", text, f"Yes, {what} in the picture.")


def existence_category(rng: random.Random, scene: Scene) -> Question | None:
    """Is there an animal, a vehicle ... in the picture?"""
    kind = rng.choice(
        [c for c in CATEGORIES if c in ("vehicle", "animal", "electronic device", "food", "fruit")]
    )
    found = {name: n for name, n in scene.counts().items() if name in CATEGORIES[kind]}
    if not found and rng.random() < 0.6:
        return None
    mass = kind in ("food", "fruit")
    form = "Is there any {one} in the {pic}?" if mass else rng.choice(_EXISTS)
    text = form.format(one=kind, a_one=article(kind), many=plural(kind), pic=picture(rng))
    answer = f"Yes, {counted_list(found)}." if found else f"No, there is no {kind} in the picture."
    return Question("existence_category", "vl", text, answer)


def read_text(rng: random.Random, scene: Scene) -> Question | None:
    """What the text says: all lines in order."""
    if not scene.lines and rng.random() < 0.3:
        return None
    if rng.random() < 0.4:
        here = [name for name in scene.counts() if name in _BEARERS]
        bearer = rng.choice(here) if here and rng.random() < 0.7 else rng.choice(_BEARERS)
        text = rng.choice(_WRITTEN_ON).format(x=bearer)
    else:
        text = rng.choice(_WRITTEN).format(pic=picture(rng))
    return Question("text", "vl", text, f"It says: {', '.join(scene.lines)}." if scene.lines else NO_TEXT)


def any_text(rng: random.Random, scene: Scene) -> Question | None:
    """Is there text, and what does it say."""
    text = rng.choice(_ANY_TEXT).format(pic=picture(rng))
    return Question(
        "any_text",
        "vl",
        text,
        f"Yes, it says: {', '.join(scene.lines)}." if scene.lines else f"No. {NO_TEXT}",
    )


def says(rng: random.Random, scene: Scene) -> Question | None:
    """Does it say this word: one that is there, or one drawn from another scene's words."""
    if scene.lines and rng.random() < 0.5:
        word = rng.choice(scene.lines)
    else:
        word = rng.choice(TEXT_WORDS)
        if any(word.casefold() in line.casefold() for line in scene.lines):
            return None
    text = rng.choice(_SAYS).format(w=word, pic=picture(rng))
    return Question("says", "vl", text, "Yes." if word in scene.lines else "No.")


def describe(rng: random.Random, scene: Scene) -> Question | None:
    """Objects, the first two relations, text, in up to three sentences."""
    text = rng.choice(_DESCRIBE).format(pic=picture(rng))
    if not scene.objects:
        said = ["No objects were found in the picture."]
    else:
        said = [f"The picture shows {counted_list(scene.counts())}."]
    said.extend(sentence(phrase(scene, r)) for r in scene.relations[:2])
    if scene.lines:
        said.append(f"It says: {', '.join(scene.lines)}.")
    return Question("describe", "vl", text, " ".join(said))


def unknown(rng: random.Random, scene: Scene) -> Question | None:
    """What no expert reports: say so rather than guess."""
    if not scene.objects:
        return None
    name = rng.choice(scene.objects).name
    return Question("unknown", "vl", rng.choice(_UNKNOWN).format(x=name, pic=picture(rng)), UNKNOWN)


FAMILIES: Final[tuple[Family, ...]] = (
    Family("relation", "vl", 2.2, relation_object),
    Family("relation", "vl", 1.6, relation_subject),
    Family("relation", "vl", 1.0, relation_between),
    Family("relation", "vl", 1.6, doing),
    Family("doing", "vl", 0.4, doing_class),
    Family("relation_true", "vl", 0.8, relation_true),
    Family("where", "vl", 0.8, where),
    Family("position", "vl", 0.4, side),
    Family("position", "vl", 0.6, left_right),
    Family("bigger", "vl", 0.3, bigger),
    Family("existence", "vl", 3.0, existence),
    Family("existence_category", "vl", 0.5, existence_category),
    Family("text", "vl", 2.0, read_text),
    Family("any_text", "vl", 0.4, any_text),
    Family("says", "vl", 0.5, says),
    Family("describe", "vl", 0.5, describe),
    Family("unknown", "vl", 0.25, unknown),
)
