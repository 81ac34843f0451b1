"""What is asked about held-out scenes: of each scene one question of each main kind, and some of the other kinds.

Held-out scenes come from a namespace of their own, so no seed can meet a training scene. With noise the scene is what
experts with that noise would have reported of it, and so are questions and right answers: what the words say is right.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from llm_server.evaluation.scoring import number
from llm_server.training import dual_families, mixture
from llm_server.training.expert_noise import NONE, ExpertNoise, noisy_scene_stream
from llm_server.training.question import Family, Question, Task
from llm_server.training.scenes import Scene

#: The main kinds, asked about every scene that offers them.
KINDS: Final[tuple[str, ...]] = ("count", "existence", "relation", "text")
MAX_COUNT: Final = 5
MAX_OBJECTS: Final = 20
"""The gateway tells so many objects at most: of a scene with more the words say less than the scene."""
_TRIES: Final = 40

Families = Mapping[Task, tuple[Family, ...]]
#: Whose questions are asked: those that the scenes recipe trains, or those of the dual run, which has more.
RecipeName = Literal["scenes", "dual"]
FAMILIES: Final[Mapping[RecipeName, Families]] = {
    "scenes": mixture.FAMILIES,
    "dual": dual_families.FAMILIES,
}


@dataclass(frozen=True)
class Item:
    """A held-out scene and questions about it, of different kinds."""

    scene: Scene
    questions: tuple[Question, ...]


def kinds(families: Families) -> dict[str, tuple[Family, ...]]:
    """The families of each kind, the main kinds first."""
    drawn = [family for row in families.values() for family in row]
    names = dict.fromkeys((*KINDS, *(family.kind for family in drawn)))
    return {kind: tuple(family for family in drawn if family.kind == kind) for kind in names}


def heldout(
    seed: int, n: int, *, noise: ExpertNoise = NONE, others: int = 8, recipe: RecipeName = "scenes"
) -> list[Item]:
    """``n`` items; ``others`` questions each are of kinds beside the main ones, those least asked so far first.

    Without noise and with it the scenes are the same. Scenes of more than 20 objects are passed over.
    """
    asked: Counter[str] = Counter()
    fitting = (
        (rng, scene)
        for rng, scene in noisy_scene_stream("heldout", seed, noise)
        if len(scene.objects) <= MAX_OBJECTS
    )
    by_kind = kinds(FAMILIES[recipe])
    return [Item(scene, _questions(rng, scene, by_kind, others, asked)) for rng, scene in islice(fitting, n)]


def _questions(
    rng: random.Random,
    scene: Scene,
    by_kind: Mapping[str, tuple[Family, ...]],
    others: int,
    asked: Counter[str],
) -> tuple[Question, ...]:
    found = [question for kind in KINDS if (question := draw(rng, scene, by_kind[kind])) is not None]
    rest = sorted((kind for kind in by_kind if kind not in KINDS), key=lambda kind: asked[kind])
    for kind in rest:
        if others <= 0:
            break
        question = draw(rng, scene, by_kind[kind])
        if question is not None:
            found.append(question)
            asked[kind] += 1
            others -= 1
    return tuple(found)


def draw(rng: random.Random, scene: Scene, families: Sequence[Family]) -> Question | None:
    """A question of the one kind of these families, or None if the scene offers none; counts are at most 5."""
    for family in rng.choices(families, weights=[f.weight for f in families], k=_TRIES):
        question = family.draw(rng, scene)
        if question is not None and question.kind == family.kind and _fair(question):
            return question
    return None


def _fair(question: Question) -> bool:
    return question.kind != "count" or (number(question.answer) or 0) <= MAX_COUNT
