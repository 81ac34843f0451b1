"""Questions about relations: who does what to what, where things are. Part of the ``vl`` adapter's."""

from __future__ import annotations

import random
from typing import Final

from llm_server.training.phrases import label, listed, picture, sentence, the
from llm_server.training.plausible import GEOMETRIC, PREDICATES
from llm_server.training.question import ONE_WORD, Question
from llm_server.training.scenes import Scene, SceneObject, SceneRelation
from llm_server.training.vocabulary import plural

_DOING: Final = (
    "What is {x} doing?",
    "What is {x} doing in the {pic}?",
    "What does {x} do?",
    "Describe what {x} is doing.",
)
_WHERE: Final = (
    "Where is {x}?",
    "Where is {x} in the {pic}?",
    "Where can I find {x}?",
    "Where is {x} located?",
)
_BETWEEN: Final = (
    "What is the relationship between {x} and {y}?",
    "How are {x} and {y} related?",
    "What is the relation of {x} to {y}?",
    "What is {x} doing to {y}?",
)
_AROUND: Final = ("beside", "in front of", "over", "on", "in", "enclosing", "attached to", "touching")
UNKNOWN: Final = "I cannot tell that from what is seen in the picture."


def phrase(scene: Scene, relation: SceneRelation) -> str:
    """``the person is riding the bicycle``."""
    subject, target = scene.objects[relation.subject], scene.objects[relation.object]
    return f"{the(scene, subject)} is {relation.predicate} {the(scene, target)}"


def _asked(rng: random.Random, scene: Scene, seen: SceneObject) -> str:
    """As people name it in a question: a lone person is often a man, a woman, a child; a number takes no article."""
    if len(scene.named(seen.name)) > 1:
        return label(scene, seen) if rng.random() < 0.7 else the(scene, seen)
    if seen.name == "person" and rng.random() < 0.3:
        return f"the {rng.choice(('man', 'woman', 'boy', 'girl', 'child', 'guy'))}"
    return the(scene, seen)


def relation_object(rng: random.Random, scene: Scene) -> Question | None:
    """What is the person riding? One subject, one predicate; now and then there is no such relation."""
    if not scene.relations:
        return None
    drawn = rng.choice(scene.relations)
    subject, predicate = scene.objects[drawn.subject], drawn.predicate
    if rng.random() < 0.08:
        predicate = rng.choice(PREDICATES)
    found = [r for r in scene.relations if r.subject == drawn.subject and r.predicate == predicate]
    if len(found) > 3:
        return None
    brief = len(found) == 1 and rng.random() < 0.08
    asked = _asked(rng, scene, subject)
    if len(scene.named(subject.name)) > 1 and found and rng.random() < 0.3:
        # Asked without a number: fair only where one of them does this.
        others = [r for r in scene.relations if scene.objects[r.subject].name == subject.name]
        if sum(r.predicate == predicate for r in others) == len(found):
            asked = f"the {subject.name}"
    text = f"What is {asked} {predicate}?" + (f" {rng.choice(ONE_WORD)}" if brief else "")
    begin = f"{the(scene, subject)} is"
    if not found:
        return Question("relation", "vl", text, sentence(f"{begin} not {predicate} anything"))
    targets = [scene.objects[r.object] for r in found]
    short = sentence(listed([label(scene, t) for t in targets]))
    if brief:
        return Question("relation", "vl", text, short)
    whole = sentence(f"{begin} {predicate} {listed([the(scene, t) for t in targets])}")
    return Question("relation", "vl", text, whole, short)


def relation_subject(rng: random.Random, scene: Scene) -> Question | None:
    """What is beside the car? Who is riding the bicycle? Now and then nobody is."""
    if not scene.relations:
        return None
    drawn = rng.choice(scene.relations)
    target, predicate = scene.objects[drawn.object], drawn.predicate
    if rng.random() < 0.06:
        predicate = rng.choice(PREDICATES)
    found = [r for r in scene.relations if r.object == drawn.object and r.predicate == predicate]
    if len(found) > 4:
        return None
    subjects = [scene.objects[r.subject] for r in found]
    people = bool(subjects) and subjects[0].name == "person"
    who = (
        rng.choice(("Who", "Who", "Who", "What"))
        if people
        else rng.choice(("What",) * 8 + ("Which object", "Who"))
    )
    if who == "Who" and subjects and not people:
        who = "What"
    act = f"{predicate} {the(scene, target)}"
    text = f"{who} is {predicate} {_asked(rng, scene, target)}?"
    if not subjects:
        return Question("relation", "vl", text, f"{'Nobody' if who == 'Who' else 'Nothing'} is {act}.")
    be = "is" if len(subjects) == 1 else "are"
    whole = sentence(f"{listed([the(scene, s) for s in subjects])} {be} {act}")
    return Question("relation", "vl", text, whole, sentence(listed([label(scene, s) for s in subjects])))


def relation_between(rng: random.Random, scene: Scene) -> Question | None:
    """How two objects are related, named in either order of the question's subject."""
    if not scene.relations:
        return None
    drawn = rng.choice(scene.relations)
    if any((r.subject, r.object) == (drawn.object, drawn.subject) for r in scene.relations):
        return None
    x, y = (_asked(rng, scene, scene.objects[i]) for i in (drawn.subject, drawn.object))
    text = rng.choice(_BETWEEN).format(x=x, y=y)
    return Question("relation", "vl", text, sentence(phrase(scene, drawn)))


def doing(rng: random.Random, scene: Scene) -> Question | None:
    """What an instance is doing: its first relation that is an act, else its first that says where it is."""
    subjects = sorted({r.subject for r in scene.relations})
    if subjects and rng.random() < 0.92:
        index = rng.choice(subjects)
    elif scene.objects:
        index = rng.randrange(len(scene.objects))
    else:
        return None
    seen = scene.objects[index]
    found = [r for r in scene.relations if r.subject == index]
    text = rng.choice(_DOING).format(x=_asked(rng, scene, seen), pic=picture(rng))
    if not found:
        return Question("doing", "vl", text, UNKNOWN)
    told = next((r for r in found if r.predicate not in GEOMETRIC), found[0])
    return Question("relation", "vl", text, sentence(phrase(scene, told)))


def doing_class(rng: random.Random, scene: Scene) -> Question | None:
    """What the people are doing, asked without numbers: the first three relations of that class."""
    names = [name for name, n in scene.counts().items() if n > 1]
    if not names:
        return None
    name = "person" if "person" in names else rng.choice(names)
    found = [r for r in scene.relations if scene.objects[r.subject].name == name][:3]
    forms = (
        f"What are the {plural(name)} doing?",
        f"What is the {name} doing?",
        f"What are the {plural(name)} doing in the picture?",
    )
    text = rng.choice(forms)
    if not found:
        return Question("doing", "vl", text, UNKNOWN)
    return Question("doing", "vl", text, " ".join(sentence(phrase(scene, r)) for r in found))


def relation_true(rng: random.Random, scene: Scene) -> Question | None:
    """Is the person riding the bicycle? True ones, and ones with another predicate, object or direction."""
    if not scene.relations:
        return None
    drawn = rng.choice(scene.relations)
    subject, predicate, target = drawn.subject, drawn.predicate, drawn.object
    if rng.random() < 0.5:
        change = rng.random()
        if change < 0.6:
            predicate = rng.choice(PREDICATES if rng.random() < 0.5 else _AROUND)
        else:
            target = rng.randrange(len(scene.objects))
    if subject == target:
        return None
    said = {(r.subject, r.object) for r in scene.relations}
    true = any((r.subject, r.predicate, r.object) == (subject, predicate, target) for r in scene.relations)
    if not true and (target, subject) in said:
        return None
    x, y = (_asked(rng, scene, scene.objects[i]) for i in (subject, target))
    text = f"Is {x} {predicate} {y}?"
    return Question("relation_true", "vl", text, "Yes." if true else "No.")


def where(rng: random.Random, scene: Scene) -> Question | None:
    """Where an instance is: by its first relation, or by its place in the picture."""
    if not scene.objects:
        return None
    index = rng.randrange(len(scene.objects))
    seen = scene.objects[index]
    text = rng.choice(_WHERE).format(x=_asked(rng, scene, seen), pic=picture(rng))
    around = [r for r in scene.relations if r.subject == index and r.predicate in _AROUND]
    if around:
        return Question("where", "vl", text, sentence(phrase(scene, around[0])))
    return Question("where", "vl", text, sentence(f"{the(scene, seen)} is {place(seen)}"))


def place(seen: SceneObject) -> str:
    x = seen.centre[0]
    return (
        "on the left of the picture"
        if x < 0.36
        else "on the right of the picture"
        if x > 0.64
        else "in the middle of the picture"
    )
