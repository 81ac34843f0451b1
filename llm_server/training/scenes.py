"""Seeded generator of plausible scenes: objects with boxes, relations, lines of text.

A scene is what the experts would have said about a photo, without the photo. The n-th scene of a stream depends on
(split, seed, n) alone, so a stream can be cut, resumed or drawn in parallel, and a held-out stream never meets a
training one: their namespaces differ whatever the seed.

Boxes are ``(x0, y0, x1, y1)``, normalised to the picture, two decimals, ``x0 < x1`` and ``y0 < y1``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

from llm_server.training.plausible import (
    GEOMETRIC,
    OTHER_ACTIONS,
    PERSON_ACTIONS,
    PLACES,
    PREDICATES,
    SYLLABLES,
    TEXT_WORDS,
)
from llm_server.training.vocabulary import CATEGORIES, STUFF, THINGS

Split = Literal["train", "heldout"]
Box = tuple[float, float, float, float]

#: What mostly fills much of a picture, and of that what is wide; the rest is small and upright.
_LARGE = frozenset(
    [
        "bus",
        "train",
        "truck",
        "airplane",
        "elephant",
        "horse",
        "cow",
        "giraffe",
        "bed",
        "couch",
        "dining table",
        "person",
        "refrigerator",
        "car",
        "boat",
        "bear",
        "zebra",
        "toilet",
        "oven",
    ]
) | frozenset(STUFF)
_WIDE = frozenset(
    ["bus", "train", "truck", "car", "bed", "couch", "dining table", "skis", "surfboard", "airplane"]
) | frozenset(STUFF)


@dataclass(frozen=True)
class SceneObject:
    """One seen instance.

    ``number`` counts from 1 within the name, in listing order; ``area`` is the share of the picture that it
    covers (0 to 1, at most its box).
    """

    name: str
    number: int
    box: Box
    area: float

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box, (x, y), normalised."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class SceneRelation:
    """``objects[subject]`` is ``predicate`` ``objects[object]``; indices into the scene's objects."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class Scene:
    """What the experts say about one picture.

    Objects stand in the order in which the gateway lists them: class by class, the class with the largest
    object first, within a class the largest first.
    """

    objects: tuple[SceneObject, ...]
    relations: tuple[SceneRelation, ...]
    lines: tuple[str, ...]

    def counts(self) -> Counter[str]:
        """How many instances of each name, in listing order of first mention."""
        return Counter(o.name for o in self.objects)

    def named(self, name: str) -> tuple[SceneObject, ...]:
        """All instances of one name, in listing order."""
        return tuple(o for o in self.objects if o.name == name)


#: Turns a scene into the sentences that the gateway would say. Injected: this room does not know the gateway.
Verbalize = Callable[[Scene], str]


def scene_rng(split: Split, seed: int, index: int) -> random.Random:
    """The random source of scene ``index``; equal on every machine (strings are hashed by SHA-512)."""
    return random.Random(f"polysight-scenes/{split}/{seed}/{index}")


def scene_stream(split: Split, seed: int, start: int = 0) -> Iterator[tuple[random.Random, Scene]]:
    """Endless (rng, scene) pairs from ``start``; the rng goes on to draw that scene's questions."""
    for index in count(start):
        rng = scene_rng(split, seed, index)
        yield rng, make_scene(rng)


def scenes(split: Split, seed: int, n: int) -> list[Scene]:
    """The first ``n`` scenes of a stream."""
    return [scene for _, scene in islice(scene_stream(split, seed), n)]


def make_scene(rng: random.Random) -> Scene:
    """One scene: 0 to 15 objects (median 5), up to 10 relations, 0 to 7 lines of text (median 1)."""
    objects = _objects(rng)
    return Scene(objects=objects, relations=_relations(rng, objects), lines=_lines(rng))


def _objects(rng: random.Random) -> tuple[SceneObject, ...]:
    total = rng.choices(range(16), weights=(3, 7, 10, 12, 13, 13, 11, 9, 7, 5, 4, 2, 2, 1, 1, 1))[0]
    names: list[str] = []
    place = PLACES[rng.choice(list(PLACES))]
    while len(names) < total:
        roll = rng.random()
        if roll < 0.80:
            name = rng.choice(place)
        elif roll < 0.95:
            name = rng.choice(THINGS)
        else:
            name = rng.choice(STUFF)
        if name in STUFF:
            repeats = 1 if name not in names else 0
        else:
            repeats = rng.choices((1, 2, 3, 4, 5, 6, 8), weights=(62, 14, 10, 7, 4, 2, 1))[0]
        names.extend([name] * min(repeats, total - len(names)))
    drawn = []
    for name in names:
        box = _box(rng, name)
        drawn.append((name, box, (box[2] - box[0]) * (box[3] - box[1]) * rng.uniform(0.4, 1.0)))
    largest = {name: max(area for other, _, area in drawn if other == name) for name in names}
    drawn.sort(key=lambda seen: (-largest[seen[0]], seen[0], -seen[2]))
    seen: Counter[str] = Counter()
    out = []
    for name, box, area in drawn:
        seen[name] += 1
        out.append(SceneObject(name=name, number=seen[name], box=box, area=area))
    return tuple(out)


def _box(rng: random.Random, name: str) -> Box:
    scale = rng.uniform(0.2, 0.9) if name in _LARGE else rng.uniform(0.04, 0.4)
    height = scale
    width = min(1.0, scale * (rng.uniform(1.1, 2.2) if name in _WIDE else rng.uniform(0.35, 1.1)))
    x0 = rng.uniform(-0.1 * width, 1.0 - 0.9 * width)
    y0 = rng.uniform(-0.05 * height, 1.0 - 0.95 * height)
    left, top = max(0.0, round(x0, 2)), max(0.0, round(y0, 2))
    right = min(1.0, max(round(x0 + width, 2), round(left + 0.02, 2)))
    bottom = min(1.0, max(round(y0 + height, 2), round(top + 0.02, 2)))
    return left, top, right, bottom


def _relations(rng: random.Random, objects: tuple[SceneObject, ...]) -> tuple[SceneRelation, ...]:
    if len(objects) < 2 or rng.random() < 0.08:
        return ()
    wanted = min(rng.choices(range(1, 11), weights=(10, 14, 15, 14, 12, 10, 8, 6, 5, 6))[0], 2 * len(objects))
    acting = rng.random() < 0.6
    found: dict[tuple[int, int], SceneRelation] = {}
    for _ in range(4 * wanted):
        if len(found) >= wanted:
            break
        a, b = rng.sample(range(len(objects)), 2)
        if (a, b) in found or ((b, a) in found and rng.random() < 0.8):
            continue
        predicate = _predicate(rng, objects[a].name, objects[b].name, acting)
        if predicate is not None:
            found[a, b] = SceneRelation(a, predicate, b)
    return tuple(found.values())


def _predicate(rng: random.Random, subject: str, target: str, acting: bool) -> str | None:
    roll = rng.random()
    if not acting:
        return rng.choices(GEOMETRIC, weights=(30, 16, 18, 10, 8, 6, 4, 6))[0]
    if roll < 0.5:
        table = PERSON_ACTIONS if subject == "person" else OTHER_ACTIONS
        if subject != "person" and subject not in CATEGORIES["animal"] + CATEGORIES["vehicle"]:
            return None
        fitting = [p for p, targets in table.items() if target in targets]
        return rng.choice(fitting) if fitting else None
    if roll < 0.85:
        return rng.choices(GEOMETRIC, weights=(30, 16, 18, 12, 10, 6, 4, 4))[0]
    return rng.choice(PREDICATES)


def _lines(rng: random.Random) -> tuple[str, ...]:
    total = rng.choices(range(8), weights=(36, 20, 20, 11, 6, 4, 2, 1))[0]
    out: list[str] = []
    while len(out) < total:
        line = _line(rng)
        if line not in out:
            out.append(line)
    return tuple(out)


def _line(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.5:
        return rng.choice(TEXT_WORDS)
    if roll < 0.62:
        return f"{rng.choice(TEXT_WORDS)} {rng.choice(TEXT_WORDS)}"
    if roll < 0.74:
        return str(rng.randrange(10 ** rng.randint(1, 5)))
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 4)))
    if roll < 0.86:
        return rng.choice((word, word.capitalize(), word.upper()))
    if roll < 0.93:
        return f"{word.capitalize()} {rng.randrange(100)}"
    letters = "".join(rng.choice("ABCDEFGHIJKLMNOPRSTUVWXYZ0123456789") for _ in range(rng.randint(2, 7)))
    return rng.choice((letters, letters.lower(), f"{letters[:2]}-{letters[2:] or 'X'}"))
