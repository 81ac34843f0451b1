"""Questions that say how they are to be answered (one word, an option's letter), and freer ways to ask the usual.

Only the dual run draws these: the data of the scenes recipe stays what its card says.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from llm_server.training.object_questions import absent_name
from llm_server.training.object_questions import count as count_one
from llm_server.training.phrases import counted, label, noun_forms, picture, sentence, the
from llm_server.training.plausible import PREDICATES, TEXT_WORDS
from llm_server.training.probe_questions import SHORT_ENDING
from llm_server.training.question import ONE_WORD, YES_NO, Family, Question, Task
from llm_server.training.relation_questions import phrase
from llm_server.training.scenes import Scene
from llm_server.training.vocabulary import UNCOUNTED, article, plural

#: The ending of the published benchmarks with options.
LETTER: Final = "Answer with the option's letter from the given choices directly."
_LETTERS: Final = "ABCDE"
_NUMBER_WORDS: Final = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")

_COUNTS: Final = (
    "How many {many} appear in this {pic}?",
    "What's the number of {many} here?",
    "Could you count the {many} for me?",
    "Number of {many}?",
    "{Many}: how many are there?",
    "Please count every {one} in the {pic}.",
    "In this {pic}, how many {many} do we have?",
    "How many {many} were photographed?",
    "I would like to know how many {many} there are.",
    "What is the total of all {many}?",
)
_THERE: Final = (
    "Has this {pic} got {a_one} in it?",
    "Would you say there is {a_one} here?",
    "Does {a_one} appear in the {pic}?",
    "Is {a_one} visible?",
    "Do we see {a_one} anywhere?",
    "Please check whether there is {a_one}.",
    "Any {many}?",
    "Was {a_one} photographed here?",
)
_LIST: Final = (
    "Tell me everything that you see.",
    "What things does this {pic} contain?",
    "Give me an inventory of the {pic}.",
    "Which things appear here?",
)
_READ: Final = (
    "Please transcribe the text.",
    "Which letters can be read here?",
    "What has been written here?",
    "Spell out the writing in this {pic}.",
    "Copy the text that you see.",
)
_RELATED: Final = (
    "Tell me what {x} is {predicate}.",
    "{x_first} is {predicate} something: what is it?",
    "Can you say what {x} is {predicate}?",
    "What thing is {x} {predicate}?",
)
_SIDE: Final = (
    "On which side is {x}?",
    "Is {x} left, right or in the middle?",
    "Which side of the {pic} is {x} on?",
)


def options(question: str, right: str, wrong: list[str], rng: random.Random) -> tuple[str, str]:
    """The question with its options, in the published form, and the right one's letter."""
    choices = [right, *wrong]
    rng.shuffle(choices)
    rows = "\n".join(f"{_LETTERS[place]}. {choice}" for place, choice in enumerate(choices))
    return f"{question}\n{rows}\n{LETTER}", f"{_LETTERS[choices.index(right)]}."


def object_options(rng: random.Random, scene: Scene) -> Question | None:
    """Which of these is in the picture, or how many of a class, by letter."""
    names = [name for name in scene.counts() if name not in UNCOUNTED]
    if not names:
        return None
    name = rng.choice(names)
    if rng.random() < 0.5:
        wrong: list[str] = []
        several = rng.choice((1, 2, 3))
        while len(wrong) < several:
            other = absent_name(rng, scene)
            if other not in wrong:
                wrong.append(other)
        ask = rng.choice(
            (
                "Which of these is in the {pic}?",
                "Which object can be seen in the {pic}?",
                "What is in the {pic}?",
            )
        ).format(pic=picture(rng))
        text, letter = options(ask, name, wrong, rng)
    else:
        n = scene.counts()[name]
        if n > 8:
            return None
        others = rng.sample([k for k in range(10) if k != n], rng.choice((1, 2, 3)))
        ask = f"How many {plural(name)} are there in the image?"
        text, letter = options(ask, _NUMBER_WORDS[n], [_NUMBER_WORDS[k] for k in others], rng)
    return Question("options_object", "object", text, letter)


def relation_options(rng: random.Random, scene: Scene) -> Question | None:
    """How two objects are related, by letter."""
    if not scene.relations:
        return None
    drawn = rng.choice(scene.relations)
    pair = (drawn.subject, drawn.object)
    true = {r.predicate for r in scene.relations if (r.subject, r.object) == pair}
    wrong = rng.sample([p for p in PREDICATES if p not in true], 3)
    x, y = (the(scene, scene.objects[i]) for i in pair)
    ask = rng.choice(
        ("What is the relation between {x} and {y}?", "{x_first} is ... {y}. Which fits?")
    ).format(x=x, y=y, x_first=sentence(x)[:-1])
    text, letter = options(ask, drawn.predicate, wrong, rng)
    return Question("options", "vl", text, letter)


def text_options(rng: random.Random, scene: Scene) -> Question | None:
    """Which words are in the picture, by letter."""
    if not scene.lines:
        return None
    said = " ".join(scene.lines).casefold()
    wrong = [word for word in rng.sample(TEXT_WORDS, min(12, len(TEXT_WORDS))) if word.casefold() not in said]
    if len(wrong) < 2:
        return None
    ask = rng.choice(("What does the text say?", "Which of these is written in the {pic}?"))
    text, letter = options(ask.format(pic=picture(rng)), rng.choice(scene.lines), wrong[:3], rng)
    return Question("options", "vl", text, letter)


def yes_no_options(rng: random.Random, scene: Scene) -> Question | None:
    """Is there one, by letter: A is yes or B is."""
    counts = scene.counts()
    present = bool(counts) and rng.random() < 0.5
    name = rng.choice(list(counts)) if present else absent_name(rng, scene)
    right, wrong = ("Yes", "No") if present else ("No", "Yes")
    text, letter = options(f"Is there {article(name)} in the image?", right, [wrong], rng)
    return Question("options_object", "object", text, letter)


def side_word(rng: random.Random, scene: Scene) -> Question | None:
    """On which side, in one word; nothing near the borders of the three."""
    clear = [o for o in scene.objects if min(abs(o.centre[0] - 0.36), abs(o.centre[0] - 0.64)) > 0.05]
    if not clear:
        return None
    seen = rng.choice(clear)
    at = seen.centre[0]
    answer = "Left." if at < 0.36 else "Right." if at > 0.64 else "Middle."
    text = rng.choice(_SIDE).format(x=the(scene, seen), pic=picture(rng))
    return Question("position", "vl", _one_word(rng, text), answer)


def bigger_word(rng: random.Random, scene: Scene) -> Question | None:
    """Which of two is bigger, in one word, where one covers at least twice as much and they have no numbers."""
    alone = [o for o in scene.objects if len(scene.named(o.name)) == 1]
    if len(alone) < 2:
        return None
    a, b = rng.sample(alone, 2)
    if max(a.area, b.area) < 2 * min(a.area, b.area):
        return None
    big = a if a.area > b.area else b
    text = f"Which is bigger, the {a.name} or the {b.name}?"
    return Question("bigger", "vl", _one_word(rng, text), sentence(big.name))


def relation_word(rng: random.Random, scene: Scene) -> Question | None:
    """What the person is riding, in one word, where there is one such thing."""
    if not scene.relations:
        return None
    drawn = rng.choice(scene.relations)
    found = [r for r in scene.relations if (r.subject, r.predicate) == (drawn.subject, drawn.predicate)]
    if len(found) > 1:
        return None
    subject, target = scene.objects[drawn.subject], scene.objects[drawn.object]
    text = _one_word(rng, f"What is {the(scene, subject)} {drawn.predicate}?")
    return Question("relation", "vl", text, sentence(label(scene, target)), target.name)


def count_word(rng: random.Random, scene: Scene) -> Question | None:
    """How many, with the published ending: a bare number."""
    question = count_one(rng, scene, absent_share=0.2)
    if question is None or any(question.text.endswith(ending) for ending in ONE_WORD):
        return None
    name = question.answer.removeprefix("There is ").removeprefix("There are ").split()[0]
    number = "0" if name == "no" else name
    return replace(question, text=question.text + SHORT_ENDING, answer=f"{number}.")


def text_word(rng: random.Random, scene: Scene) -> Question | None:
    """What is written, with the published ending: the only line, bare."""
    if len(scene.lines) != 1:
        return None
    text = rng.choice(("What does the sign say?", "What is written here?", "What word is shown?"))
    return Question("text", "vl", text + SHORT_ENDING, f"{scene.lines[0]}.")


def count_again(rng: random.Random, scene: Scene) -> Question | None:
    """How many, asked more freely."""
    counts = scene.counts()
    names = [name for name in counts if name not in UNCOUNTED]
    absent = not names or rng.random() < 0.2
    name = absent_name(rng, scene) if absent else rng.choice(names)
    n = counts[name]
    if n > 8:
        return None
    one, many = noun_forms(rng, name)
    text = rng.choice(_COUNTS).format(one=one, many=many, Many=many[0].upper() + many[1:], pic=picture(rng))
    if n == 0:
        return Question("count", "object", text, f"There are no {many} in the picture.")
    what = f"There is 1 {one}" if n == 1 else f"There are {n} {many}"
    return Question("count", "object", text, f"{what} in the picture.")


def existence_again(rng: random.Random, scene: Scene) -> Question | None:
    """Is there one, asked more freely."""
    counts = scene.counts()
    names = [name for name in counts if name not in UNCOUNTED]
    present = bool(names) and rng.random() < 0.5
    name = rng.choice(names) if present else absent_name(rng, scene)
    one, many = noun_forms(rng, name)
    text = rng.choice(_THERE).format(a_one=article(one), many=many, pic=picture(rng))
    if rng.random() < 0.25:
        ending = rng.choice((*YES_NO, SHORT_ENDING))
        joint = "" if ending.startswith("\n") else " "
        return Question("existence", "vl", f"{text}{joint}{ending}", "Yes." if present else "No.")
    if not present:
        return Question("existence", "vl", text, f"No, there is no {one} in the picture.")
    n = counts[name]
    what = f"there is 1 {one}" if n == 1 else f"there are {n} {many}"
    return Question("existence", "vl", text, f"Yes, {what} in the picture.")


def list_again(rng: random.Random, scene: Scene) -> Question | None:
    """What is in the picture, asked more freely."""
    if not scene.objects:
        return None
    text = rng.choice(_LIST).format(pic=picture(rng))
    said = [counted(n, name) for name, n in scene.counts().items()]
    whole = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return Question("list", "object", text, sentence(whole))


def read_again(rng: random.Random, scene: Scene) -> Question | None:
    """What is written, asked more freely."""
    if not scene.lines:
        return None
    text = rng.choice(_READ).format(pic=picture(rng))
    return Question("text", "vl", text, f"It says: {', '.join(scene.lines)}.")


def relation_again(rng: random.Random, scene: Scene) -> Question | None:
    """What somebody is doing something to, asked more freely, where there is one such thing."""
    if not scene.relations:
        return None
    drawn = rng.choice(scene.relations)
    found = [r for r in scene.relations if (r.subject, r.predicate) == (drawn.subject, drawn.predicate)]
    if len(found) > 1:
        return None
    x = the(scene, scene.objects[drawn.subject])
    text = rng.choice(_RELATED).format(x=x, x_first=sentence(x)[:-1], predicate=drawn.predicate)
    short = sentence(label(scene, scene.objects[drawn.object]))
    return Question("relation", "vl", text, sentence(phrase(scene, drawn)), short)


def _one_word(rng: random.Random, text: str) -> str:
    return f"{text} {rng.choice(ONE_WORD)}" if rng.random() < 0.6 else text + SHORT_ENDING


_OBJECT: Final[tuple[tuple[str, float, Callable[[random.Random, Scene], Question | None]], ...]] = (
    ("options_object", 0.7, object_options),
    ("options_object", 0.3, yes_no_options),
    ("count", 0.7, count_word),
    ("count", 1.2, count_again),
    ("list", 0.3, list_again),
)
_VL: Final[tuple[tuple[str, float, Callable[[random.Random, Scene], Question | None]], ...]] = (
    ("options", 0.5, relation_options),
    ("options", 0.3, text_options),
    ("position", 0.4, side_word),
    ("bigger", 0.2, bigger_word),
    ("relation", 0.5, relation_word),
    ("relation", 0.6, relation_again),
    ("text", 0.2, text_word),
    ("text", 0.4, read_again),
    ("existence", 1.0, existence_again),
)


def _families(
    task: Task, rows: tuple[tuple[str, float, Callable[..., Question | None]], ...]
) -> tuple[Family, ...]:
    return tuple(Family(kind, task, weight, draw) for kind, weight, draw in rows)


OBJECT_FAMILIES: Final = _families("object", _OBJECT)
VL_FAMILIES: Final = _families("vl", _VL)
