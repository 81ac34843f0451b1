"""The loss of every step, a line of JSON each, so that a run that was cut has it all; and a picture of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

_SMOOTHING = 0.9


@dataclass(frozen=True)
class Step:
    """One step: its number from 1 within its stage, the task that trained, its loss, and a digest of what it read."""

    step: int
    task: str
    loss: float
    data: str


class LossCurve:
    """The steps of a stage in a file, ``losses.jsonl``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.steps: list[Step] = []

    def begin(self, after: int) -> None:
        """Keeps the first ``after`` steps of the file and goes on from there.

        Raises:
            ValueError: the file has fewer.
        """
        kept: list[Step] = []
        if after:
            lines = self._path.read_text(encoding="utf-8").splitlines()[:after]
            kept = [Step(**json.loads(line)) for line in lines]
            if [one.step for one in kept] != list(range(1, after + 1)):
                raise ValueError(f"{self._path} does not hold the first {after} steps")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(f"{_line(one)}\n" for one in kept), encoding="utf-8")
        self.steps = kept

    def add(self, step: Step) -> None:
        """One step more."""
        self.steps.append(step)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{_line(step)}\n")


def data_sha256(steps: Sequence[Step]) -> str:
    """Of all that these steps read, one after another."""
    return hashlib.sha256("\n".join(one.data for one in steps).encode()).hexdigest()


def _line(step: Step) -> str:
    return json.dumps(asdict(step))


def plot(stages: Sequence[tuple[str, Sequence[Step]]], path: Path) -> bool:
    """Draws the loss of all stages, one after another, to a PNG; returns whether matplotlib is there to do it.

    Dots are steps, by task; the line is their running mean.
    """
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    offset = 0
    tasks = sorted({one.task for _, steps in stages for one in steps})
    colours = dict(zip(tasks, ("tab:blue", "tab:orange", "tab:green", "tab:red"), strict=False))
    for number, (name, steps) in enumerate(stages):
        for task in tasks:
            own = [one for one in steps if one.task == task]
            label = task if number == 0 or task not in {s.task for s in stages[0][1]} else None
            axes.scatter(
                [offset + one.step for one in own], [one.loss for one in own], s=4, alpha=0.4,
                color=colours.get(task, "grey"), label=label,
            )  # fmt: skip
        mean, line = 0.0, []
        for at, one in enumerate(steps, start=1):
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * one.loss
            line.append(mean / (1 - _SMOOTHING**at))
        axes.plot([offset + one.step for one in steps], line, color="black", linewidth=1)
        if steps:
            axes.axvline(offset, color="grey", linewidth=0.5)
            axes.annotate(name, (offset, 1), xycoords=("data", "axes fraction"), va="top", fontsize=8)
            offset += steps[-1].step
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    if tasks:
        axes.legend(loc="upper right", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return True
