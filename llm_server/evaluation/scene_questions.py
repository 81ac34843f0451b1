"""What is asked about held-out scenes: of each scene one question of each main kind, and some of the other kinds.

Held-out scenes come from a namespace of their own, so no seed can meet a training scene. With noise the scene is what
experts with that noise would have reported of it, and so are questions and right answers: what the words say is right.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from llm_server.evaluation.scoring import number
from llm_server.training.expert_noise import NONE, ExpertNoise, noisy_scene_stream
from llm_server.training.mixture import FAMILIES
from llm_server.training.question import Family, Question
from llm_server.training.scenes import Scene

#: The main kinds, asked about every scene that offers them.
KINDS: Final[tuple[str, ...]] = ("count", "existence", "relation", "text")
MAX_COUNT: Final = 5
MAX_OBJECTS: Final = 20
"""The gateway tells so many objects at most: of a scene with more the words say less than the scene."""
_BY_KIND: Final[Mapping[str, tuple[Family, ...]]] = {
    kind: tuple(f for families in FAMILIES.values() for f in families if f.kind == kind)
    for kind in dict.fromkeys(f.kind for families in FAMILIES.values() for f in families)
}
#: Every kind that is trained.
ALL_KINDS: Final[tuple[str, ...]] = (*KINDS, *(kind for kind in _BY_KIND if kind not in KINDS))
_TRIES: Final = 40


@dataclass(frozen=True)
class Item:
    """A held-out scene and questions about it, of different kinds."""

    scene: Scene
    questions: tuple[Question, ...]


def heldout(seed: int, n: int, *, noise: ExpertNoise = NONE, others: int = 8) -> list[Item]:
    """``n`` items; ``others`` questions each are of kinds beside the main ones, those least asked so far first.

    Without noise and with it the scenes are the same. Scenes of more than 20 objects are passed over.
    """
    asked: Counter[str] = Counter()
    fitting = (
        (rng, scene)
        for rng, scene in noisy_scene_stream("heldout", seed, noise)
        if len(scene.objects) <= MAX_OBJECTS
    )
    return [Item(scene, _questions(rng, scene, others, asked)) for rng, scene in islice(fitting, n)]


def _questions(rng: random.Random, scene: Scene, others: int, asked: Counter[str]) -> tuple[Question, ...]:
    found = [question for kind in KINDS if (question := draw(rng, scene, kind)) is not None]
    rest = sorted((kind for kind in ALL_KINDS if kind not in KINDS), key=lambda kind: asked[kind])
    for kind in rest:
        if others <= 0:
            break
        question = draw(rng, scene, kind)
        if question is not None:
            found.append(question)
            asked[kind] += 1
            others -= 1
    return tuple(found)


def draw(rng: random.Random, scene: Scene, kind: str) -> Question | None:
    """A question of this kind, or None if the scene offers none; counts are at most 5.

    Raises:
        KeyError: no such kind is trained.
    """
    families = _BY_KIND[kind]
    drawn: Iterable[Family] = rng.choices(families, weights=[f.weight for f in families], k=_TRIES)
    for family in drawn:
        question = family.draw(rng, scene)
        if question is not None and question.kind == kind and _fair(question):
            return question
    return None


def _fair(question: Question) -> bool:
    return question.kind != "count" or (number(question.answer) or 0) <= MAX_COUNT
