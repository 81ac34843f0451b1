"""Small grammar for questions and answers: labels of objects, counted nouns, lists."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from llm_server.training.scenes import Scene, SceneObject
from llm_server.training.vocabulary import SYNONYMS, UNCOUNTED, article, plural


def sentence(text: str) -> str:
    """Upper-case first letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def listed(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def counted(n: int, name: str) -> str:
    """``a bus`` for one, ``4 people`` for more."""
    return article(name) if n == 1 or name in UNCOUNTED else f"{n} {plural(name)}"


def counted_list(counts: Mapping[str, int]) -> str:
    """``a bus and 4 people``, in the order of the mapping."""
    return listed([counted(n, name) for name, n in counts.items()])


def label(scene: Scene, seen: SceneObject) -> str:
    """``bus`` where there is one, ``person (#2)`` where there are several: as relations name it."""
    return seen.name if len(scene.named(seen.name)) == 1 else f"{seen.name} (#{seen.number})"


def the(scene: Scene, seen: SceneObject) -> str:
    """``the bus``, ``the person (#2)``. Answers always name an object so: after a blank and in lower case its
    tokens are those of the sentence it is read from, which a small model copies far more surely."""
    return f"the {label(scene, seen)}"


def noun_forms(rng: random.Random, name: str) -> tuple[str, str]:
    """A (singular, plural) pair to ask with: mostly the class name, now and then a synonym."""
    if name in SYNONYMS and rng.random() < 0.35:
        return rng.choice(SYNONYMS[name])
    return name, plural(name)


def box_text(box: tuple[float, float, float, float]) -> str:
    """``[0.03, 0.21, 1.00, 0.70]``, as the verbalizer writes it."""
    return f"[{', '.join(f'{value:.2f}' for value in box)}]"


def picture(rng: random.Random) -> str:
    """A word for the picture."""
    return rng.choices(("picture", "image", "photo", "scene"), weights=(4, 3, 2, 1))[0]
