"""Which task each step trains and which sequences it reads: drawn by number, sorted into buckets of similar length.

Everything follows from the settings and the number of the step, so a run that is taken up at step n reads what the
uninterrupted one would have read.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

from torch.utils.data import Dataset

from llm_server.training.dual_settings import BatchSettings, StageSettings
from llm_server.training.examples import Example, Examples
from llm_server.training.image_packing import (
    ImagePacked,
    image_place,
    pack_conversation,
    with_image,
    without_image,
)
from llm_server.training.packing import Tokenizer, pack
from llm_server.training.question import TASKS, Task

_TRIES: Final = 20
_APART: Final = 1 << 40
"""Numbers of replacements for examples that are too long: beyond those that are drawn first."""

MicroBatch = tuple[Task, list[ImagePacked]]


class StepPlan:
    """Tasks and example numbers of a stage.

    Args:
        stage: how many steps of what.
        batch: sizes.
        seed: of the run.
        vl_share: of the steps, those that train the ``vl`` adapter.
    """

    def __init__(self, stage: StageSettings, batch: BatchSettings, *, seed: int, vl_share: float) -> None:
        rng = random.Random(f"polysight-plan/{seed}/{stage.kind}")
        self.tasks: tuple[Task, ...] = tuple(
            "vl" if rng.random() < vl_share else "object" for _ in range(stage.steps)
        )
        self._per_step = batch.sequences * batch.accumulation
        seen: Counter[Task] = Counter()
        self.first: list[int] = []
        for task in self.tasks:
            self.first.append(seen[task])
            seen[task] += self._per_step

    def numbers(self, step: int) -> range:
        """Numbers of the examples of ``tasks[step]`` that the step reads, before bucketing."""
        return range(self.first[step], self.first[step] + self._per_step)


class MicroBatches(Dataset[MicroBatch]):
    """Micro-batches of a stage by number: ``accumulation`` of them make a step.

    With ``with_maps`` false the examples are the same, but no sequence has image positions.
    """

    def __init__(
        self,
        stage: StageSettings,
        batch: BatchSettings,
        examples: Examples,
        tokenizer: Tokenizer,
        *,
        seed: int,
        vl_share: float,
        with_maps: bool = True,
    ) -> None:
        self.plan = StepPlan(stage, batch, seed=seed, vl_share=vl_share)
        self._stage = stage
        self._batch = batch
        self._examples = examples
        self._tokenizer = tokenizer
        self._seed = seed
        self._with_maps = with_maps
        self._place = image_place(tokenizer)
        self._group: tuple[int, dict[int, list[list[ImagePacked]]]] | None = None

    def __len__(self) -> int:
        return self._stage.steps * self._batch.accumulation

    def __getitem__(self, index: int) -> MicroBatch:
        """Micro-batch ``index``; raises IndexError beyond the last."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        step, part = divmod(index, self._batch.accumulation)
        group = step // self._batch.bucket_steps
        if self._group is None or self._group[0] != group:
            self._group = (group, self._dealt(group))
        return self.plan.tasks[step], self._group[1][step][part]

    def _dealt(self, group: int) -> dict[int, list[list[ImagePacked]]]:
        """The micro-batches of each step of a group: for each task sorted by length, cut, shuffled, dealt out."""
        start = group * self._batch.bucket_steps
        steps = range(start, min(start + self._batch.bucket_steps, self._stage.steps))
        out: dict[int, list[list[ImagePacked]]] = {}
        size, rng = self._batch.sequences, random.Random(f"polysight-deal/{self._seed}/{group}")
        for task in TASKS:
            own = [step for step in steps if self.plan.tasks[step] == task]
            drawn = [self.packed(task, number) for step in own for number in self.plan.numbers(step)]
            drawn.sort(key=len)
            pieces = [drawn[at : at + size] for at in range(0, len(drawn), size)]
            rng.shuffle(pieces)
            for place, step in enumerate(own):
                at = place * self._batch.accumulation
                out[step] = pieces[at : at + self._batch.accumulation]
        return out

    def packed(self, task: Task, number: int) -> ImagePacked:
        """Example ``number`` packed; one that is too long is replaced by another.

        Raises:
            ValueError: so are its replacements.
        """
        why: ValueError | None = None
        for attempt in range(_TRIES):
            # Replacements come from numbers of their own, so that no example is read twice.
            drawn = number if not attempt else _APART + number * _TRIES + attempt
            example = self._examples.draw(self._stage.kind, task, drawn)
            try:
                return self._pack(example)
            except ValueError as error:
                why = error
        raise ValueError(f"{_TRIES} examples for number {number} do not fit: {why}")

    def without_image(self, task: Task, number: int) -> ImagePacked:
        """The same sequence as :meth:`packed` gives, without its image positions."""
        return without_image(self.packed(task, number))

    def _pack(self, example: Example) -> ImagePacked:
        pack_one = pack_conversation if example.chained else pack
        packed = pack_one(self._tokenizer, example.text, example.pairs, max_tokens=self._batch.max_tokens)
        return with_image(packed, example.maps if self._with_maps else None, self._place)
