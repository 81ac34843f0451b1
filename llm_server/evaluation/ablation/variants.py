"""What is compared, each as ordinary settings of dual training and a filter over its examples."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from llm_server.training.dual_settings import DualSettings, StageKind, Views, smoke
from llm_server.training.examples import Example, Examples
from llm_server.training.question import Task

Part = Literal["crayon", "adapters"]
PARTS: Final[tuple[Part, ...]] = ("crayon", "adapters")


class WithoutMaps:
    """Examples without crayon maps."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def draw(self, stage: StageKind, task: Task, number: int) -> Example:
        """See :class:`llm_server.training.examples.Examples`."""
        return replace(self._examples.draw(stage, task, number), maps=None)


class WithoutNumbers:
    """Examples whose maps tell classes only: every number is 0, unknown."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def draw(self, stage: StageKind, task: Task, number: int) -> Example:
        """See :class:`llm_server.training.examples.Examples`."""
        example = self._examples.draw(stage, task, number)
        if example.maps is None:
            return example
        return replace(example, maps=replace(example.maps, numbers=np.zeros_like(example.maps.numbers)))


class BothTasksAsOne:
    """Examples of both tasks, whichever is asked for: what one adapter for everything learns from.

    Args:
        examples: of both tasks.
        vl_share: of the examples, those of the task ``vl``.
        seed: of the draw.
    """

    def __init__(self, examples: Examples, *, vl_share: float, seed: int) -> None:
        self._examples = examples
        self._vl_share = vl_share
        self._seed = seed

    def draw(self, stage: StageKind, task: Task, number: int) -> Example:
        """See :class:`llm_server.training.examples.Examples`."""
        rng = random.Random(f"polysight-one-adapter/{self._seed}/{stage}/{number}")
        drawn: Task = "vl" if rng.random() < self._vl_share else "object"
        return self._examples.draw(stage, drawn, number)


@dataclass(frozen=True)
class Variant:
    """One contender.

    Attributes:
        part: which of the two ablations it belongs to.
        name: within the part.
        settings: of its training.
        filtered: what of the examples it learns from.
        maps: whether it is shown crayon maps.
        numbers: whether these have numbers.
    """

    part: Part
    name: str
    settings: DualSettings
    filtered: Callable[[Examples], Examples]
    maps: bool = True
    numbers: bool = True

    @property
    def folder(self) -> str:
        """Names it and its seed."""
        return f"{self.part}-{self.name}-seed{self.settings.seed}"


def variants(settings: DualSettings, part: Part, *, steps: int, seed: int) -> list[Variant]:
    """The contenders of a part, all with the same number of steps of instruction tuning and the same seed.

    A quarter of ``steps`` is crayon prompt tuning, which there is none of without a crayon prompt.
    """
    cpt = max(1, steps // 4)
    short = replace(smoke(settings, cpt=cpt, cit=max(1, steps - cpt)), seed=seed, heldout=1)
    if part == "crayon":
        short = replace(short, views=Views(both=0.0, map_only=1.0, text_only=0.0))
        tuned = replace(short, stages=tuple(stage for stage in short.stages if stage.kind == "cit"))
        return [
            Variant(part, "off", tuned, WithoutMaps, maps=False, numbers=False),
            Variant(part, "semantic", short, WithoutNumbers, numbers=False),
            Variant(part, "both", short, _unchanged),
        ]

    def as_one(examples: Examples) -> Examples:
        return BothTasksAsOne(examples, vl_share=settings.vl_share, seed=seed)

    alone = replace(short, vl_share=1.0)
    return [
        Variant(part, "vl_only", alone, _unchanged),
        # Every step trains the adapter `vl`; the other stays what it is at the start, which adds nothing.
        Variant(part, "single", alone, as_one),
        Variant(part, "dual", short, _unchanged),
    ]


def _unchanged(examples: Examples) -> Examples:
    return examples
