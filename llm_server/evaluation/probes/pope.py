"""POPE from annotated pictures: each picture is asked about categories that are there and as many that are not.

The absent ones are drawn in three ways (arXiv 2305.10355, section 5.1): `random` from all categories that occur,
`popular` the most frequent of the set, `adversarial` those that most often occur beside the present one that was just
asked about. Where popular or adversarial ones run out, random ones take their place, as in the published construction;
where all that occur are in the picture (a small set), any other category of the annotation does. Ties, which the
published construction leaves to the order of its files, go by name here. Pictures with fewer than `per_picture`
categories are left out, as there. Frequencies are those of the pictures used.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from llm_server.evaluation.harness.example import Example, PictureFile
from llm_server.evaluation.probes.coco import AnnotatedPicture, AnnotatedSet
from llm_server.evaluation.probes.prompts import ask_pope

SPLITS: Final = ("random", "popular", "adversarial")
PER_PICTURE: Final = 3


def make_pope(
    annotated: AnnotatedSet, *, seed: int = 0, per_picture: int = PER_PICTURE, pictures: int = 0
) -> list[Example]:
    """The questions of all three splits, groups `pope_random`, `pope_popular`, `pope_adversarial`.

    Args:
        annotated: the pictures.
        seed: of everything drawn.
        per_picture: questions answered yes a picture, and as many answered no.
        pictures: at most so many, drawn (0: all); the published set has 500.
    """
    usable = [picture for picture in annotated.pictures if len(picture.names()) >= per_picture]
    if pictures and len(usable) > pictures:
        chosen = random.Random(f"{seed} pictures").sample(range(len(usable)), pictures)
        usable = [usable[i] for i in sorted(chosen)]
    frequency = Counter(name for picture in usable for name in sorted(picture.names()))
    beside = _beside(usable)
    made: list[Example] = []
    for split in SPLITS:
        for picture in usable:
            rng = random.Random(f"{seed} {split} {picture.id}")
            made += _ask(split, picture, per_picture, frequency, beside, annotated.categories, rng)
    return made


def _beside(pictures: Sequence[AnnotatedPicture]) -> dict[str, Counter[str]]:
    """For each category how many pictures it shares with each other one."""
    together: dict[str, Counter[str]] = {}
    for picture in pictures:
        for name in picture.names():
            together.setdefault(name, Counter()).update(picture.names() - {name})
    return together


def _ask(
    split: str,
    picture: AnnotatedPicture,
    per_picture: int,
    frequency: Counter[str],
    beside: Mapping[str, Counter[str]],
    categories: Sequence[str],
    rng: random.Random,
) -> Iterator[Example]:
    asked = set(picture.names())
    for name in rng.sample(sorted(picture.names()), per_picture):
        yield _example(split, picture, name, "Yes")
        candidates = {"random": [], "popular": _ranked(frequency), "adversarial": _ranked(beside[name])}[
            split
        ]
        fresh = [other for other in candidates if other not in asked]
        rest = sorted(set(frequency) - asked) or sorted(set(categories) - asked)
        if not fresh and not rest:
            continue
        absent = fresh[0] if fresh else rng.choice(rest)
        asked.add(absent)
        yield _example(split, picture, absent, "No")


def _ranked(counts: Counter[str]) -> list[str]:
    """The most frequent first, equal ones by name."""
    return sorted(counts, key=lambda name: (-counts[name], name))


def _example(split: str, picture: AnnotatedPicture, name: str, answer: str) -> Example:
    group = f"pope_{split}"
    return Example(
        f"{group}/{picture.id}/{name}",
        group,
        PictureFile(picture.path),
        ask_pope(name),
        answer,
        max_new_tokens=5,
        details={"name": name},
    )
