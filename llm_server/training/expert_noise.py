"""What real experts get wrong, done to a scene: objects missed, doubled, misnamed, boxes that shake, misread letters.

Pure, and with a random source of its own: the scene of (split, seed, number) and its noise can be drawn apart. The
result is a scene again, listed and numbered as the gateway would list it, so questions drawn from it have the answers
that the noisy sentences give. What an expert did not see is not asked for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from llm_server.training.scenes import (
    Box,
    Scene,
    SceneObject,
    SceneRelation,
    Split,
    scene_stream,
)
from llm_server.training.vocabulary import CATEGORIES, STUFF, THINGS

#: Characters that recognisers of printed text take for one another.
_LOOKALIKES: Final[dict[str, str]] = {
    "0": "OD", "O": "0QD", "1": "lI7", "l": "1I", "I": "l1", "5": "S", "S": "5", "8": "B", "B": "8", "2": "Z",
    "Z": "2", "6": "G", "G": "6", "c": "e", "e": "c", "n": "h", "h": "n", "u": "v", "v": "u", "o": "a", "a": "o",
    "E": "F", "F": "E", "r": "t", "t": "r", "i": "j", "N": "M", "M": "N", "U": "V", "V": "U",
}  # fmt: skip


@dataclass(frozen=True)
class ExpertNoise:
    """How often what goes wrong; every value a probability except ``jitter``.

    Attributes:
        missed: of an object that covers a tenth of the picture; small ones are missed up to three times as often.
        doubled: an object is reported twice, with two boxes.
        misnamed: an object gets another class, mostly one of its category.
        jitter: standard deviation of each side of a box, in shares of the box's own width or height.
        relation_missed: of a relation between objects that were seen.
        relation_swapped: its direction is turned.
        line_missed: of a line of text.
        character: of a character of a line: replaced by one that looks alike, dropped, or doubled.
    """

    missed: float = 0.08
    doubled: float = 0.04
    misnamed: float = 0.05
    jitter: float = 0.04
    relation_missed: float = 0.1
    relation_swapped: float = 0.03
    line_missed: float = 0.08
    character: float = 0.03

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0.0 <= getattr(self, field.name) <= 1.0:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}, not within 0 and 1")


#: What is expected of the experts that are served.
USUAL: Final = ExpertNoise()
#: No noise at all.
NONE: Final = ExpertNoise(0, 0, 0, 0, 0, 0, 0, 0)


def noise_rng(split: Split, seed: int, index: int) -> random.Random:
    """The random source of the noise on scene ``index``, apart from the one that the scene was drawn with."""
    return random.Random(f"polysight-noise/{split}/{seed}/{index}")


def noisy_scene_stream(
    split: Split, seed: int, noise: ExpertNoise, start: int = 0, *, noise_seed: int | None = None
) -> Iterator[tuple[random.Random, Scene]]:
    """As :func:`llm_server.training.scenes.scene_stream`, with noise drawn from ``noise_seed`` (``seed`` if None).

    The random source that comes with a scene is the one that goes on to draw its questions.
    """
    own = seed if noise_seed is None else noise_seed
    for index, (rng, scene) in enumerate(scene_stream(split, seed, start), start=start):
        yield rng, noisy(scene, noise, noise_rng(split, own, index))


def noisy(scene: Scene, noise: ExpertNoise, rng: random.Random) -> Scene:
    """What experts with this noise would report of ``scene``."""
    reported: list[tuple[int, SceneObject]] = []
    for index, seen in enumerate(scene.objects):
        if rng.random() < min(1.0, noise.missed * _smallness(seen.area)):
            continue
        name = _misnamed(rng, seen.name) if rng.random() < noise.misnamed else seen.name
        times = 2 if rng.random() < noise.doubled else 1
        for _ in range(times):
            box = _jittered(rng, seen.box, noise.jitter)
            share = seen.area / _area(seen.box)
            reported.append((index, SceneObject(name, 1, box, share * _area(box))))
    order, objects = listed_objects([seen for _, seen in reported])
    # A relation goes to the first report of each of its objects.
    place: dict[int, int] = {}
    for to, at in enumerate(order):
        place.setdefault(reported[at][0], to)
    return Scene(objects, _relations(rng, scene, noise, place), _lines(rng, scene.lines, noise))


def listed_objects(seen: list[SceneObject]) -> tuple[list[int], tuple[SceneObject, ...]]:
    """Objects in the order and with the numbers that the gateway gives them, and which of ``seen`` each one is.

    Class by class, the class with the largest object first, within a class the largest first.
    """
    largest: dict[str, float] = {}
    for one in seen:
        largest[one.name] = max(largest.get(one.name, 0.0), one.area)
    order = sorted(range(len(seen)), key=lambda i: (-largest[seen[i].name], seen[i].name, -seen[i].area, i))
    counts: dict[str, int] = {}
    out = []
    for index in order:
        one = seen[index]
        counts[one.name] = counts.get(one.name, 0) + 1
        out.append(SceneObject(one.name, counts[one.name], one.box, one.area))
    return order, tuple(out)


def _smallness(area: float) -> float:
    """1 from a tenth of the picture on, 3 for nothing at all."""
    return 1.0 + 2.0 * max(0.0, 1.0 - area / 0.1)


def _misnamed(rng: random.Random, name: str) -> str:
    rows = [row for row in CATEGORIES.values() if name in row]
    near = [other for row in rows for other in row if other != name]
    if near and rng.random() < 0.85:
        return rng.choice(near)
    others = [other for other in (STUFF if name in STUFF else THINGS) if other != name]
    return rng.choice(others)


def _jittered(rng: random.Random, box: Box, jitter: float) -> Box:
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    moved = [
        round(min(1.0, max(0.0, value + rng.gauss(0.0, jitter) * side)), 2)
        for value, side in zip(box, (width, height, width, height), strict=True)
    ]
    left, right = _apart(moved[0], moved[2])
    top, bottom = _apart(moved[1], moved[3])
    return left, top, right, bottom


def _apart(low: float, high: float) -> tuple[float, float]:
    """Two sides of a box, at least 0.01 apart."""
    low, high = min(low, high), max(low, high)
    if high - low >= 0.01 - 1e-9:
        return low, high
    return (low, round(low + 0.01, 2)) if low < 1.0 else (0.99, 1.0)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _relations(
    rng: random.Random, scene: Scene, noise: ExpertNoise, place: dict[int, int]
) -> tuple[SceneRelation, ...]:
    kept: dict[tuple[int, int], SceneRelation] = {}
    for relation in scene.relations:
        lost = rng.random() < noise.relation_missed
        turned = rng.random() < noise.relation_swapped
        if lost or relation.subject not in place or relation.object not in place:
            continue
        subject, target = place[relation.subject], place[relation.object]
        if turned:
            subject, target = target, subject
        kept.setdefault((subject, target), SceneRelation(subject, relation.predicate, target))
    return tuple(kept.values())


def _lines(rng: random.Random, lines: tuple[str, ...], noise: ExpertNoise) -> tuple[str, ...]:
    out: list[str] = []
    for line in lines:
        if rng.random() < noise.line_missed:
            continue
        read = " ".join("".join(_character(rng, one, noise.character) for one in line).split())
        if read and read not in out:
            out.append(read)
    return tuple(out)


def _character(rng: random.Random, one: str, share: float) -> str:
    if one == " " or rng.random() >= share:
        return one
    roll = rng.random()
    if roll < 0.7:
        return rng.choice(_LOOKALIKES.get(one, one))
    return "" if roll < 0.85 else one + one
