"""A scene painted on a grid: the two crayon maps that a panoptic expert's map of that picture would give.

Large objects are painted first, small ones over them, each as a rounded shape that fills as much of its box as the
object does. Numbers are those of the object sentence. What an object covered by others has left is what is seen.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_server.training.expert_noise import listed_objects
from llm_server.training.scenes import Scene, SceneObject, SceneRelation

MAX_NUMBER = 20
"""Numbers with an embedding; the 21st of a kind keeps its class and gets 0, as in serving."""

#: Label ids (0 to 132, COCO panoptic) that are called by a name; several where suffixes were dropped ("wall").
LabelIds = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Maps:
    """Two (rows, columns) uint8 arrays: class + 1 and number within the class, 0 for unknown."""

    classes: NDArray[np.uint8]
    numbers: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.classes.shape != self.numbers.shape or self.classes.ndim != 2:
            raise ValueError(f"maps of {self.classes.shape} and {self.numbers.shape} do not belong together")


def painted(scene: Scene, rows: int, columns: int) -> NDArray[np.int16]:
    """(rows, columns): the index of the object that is seen in each cell, -1 for none."""
    grid = np.full((rows, columns), -1, np.int16)
    by_size = sorted(range(len(scene.objects)), key=lambda i: (-scene.objects[i].area, i))
    for index in by_size:
        grid[_shape(scene.objects[index], rows, columns)] = index
    return grid


def maps(rng: random.Random, scene: Scene, grid: NDArray[np.int16], label_ids: LabelIds) -> Maps:
    """The crayon maps of a painted scene; where a name has several label ids one is drawn for each object.

    Raises:
        KeyError: an object's name has no label id.
    """
    classes, numbers = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    for index, seen in enumerate(scene.objects):
        cells = grid == index
        classes[cells] = rng.choice(label_ids[seen.name]) + 1
        numbers[cells] = seen.number if seen.number <= MAX_NUMBER else 0
    return Maps(classes, numbers)


def as_painted(scene: Scene, grid: NDArray[np.int16]) -> tuple[Scene, NDArray[np.int16]]:
    """What can be read off the grid alone, and the grid with that scene's indices.

    Only objects with a cell, with the box around their cells (two decimals), the share of cells as their area, listed
    and numbered anew; relations between them; no text.
    """
    rows, columns = grid.shape
    seen: list[SceneObject] = []
    was: list[int] = []
    for index, one in enumerate(scene.objects):
        ys, xs = np.nonzero(grid == index)
        if len(ys):
            box = (
                round(float(xs.min()) / columns, 2),
                round(float(ys.min()) / rows, 2),
                round(float(xs.max() + 1) / columns, 2),
                round(float(ys.max() + 1) / rows, 2),
            )
            seen.append(SceneObject(one.name, 1, box, len(ys) / grid.size))
            was.append(index)
    order, objects = listed_objects(seen)
    place = {was[at]: to for to, at in enumerate(order)}
    relations = tuple(
        SceneRelation(place[r.subject], r.predicate, place[r.object])
        for r in scene.relations
        if r.subject in place and r.object in place
    )
    renumbered = np.full(grid.shape, -1, np.int16)
    for old, new in place.items():
        renumbered[grid == old] = new
    return Scene(objects, relations, ()), renumbered


def _shape(seen: SceneObject, rows: int, columns: int) -> NDArray[np.bool_]:
    """Cells of an object: those whose middle lies in its shape, and always the one in the middle of its box."""
    x0, y0, x1, y1 = seen.box
    fill = seen.area / max((x1 - x0) * (y1 - y0), 1e-9)
    across = (np.arange(columns) + 0.5) / columns
    down = (np.arange(rows) + 0.5) / rows
    u = np.abs((across - (x0 + x1) / 2) / max((x1 - x0) / 2, 1e-9))[None, :]
    v = np.abs((down - (y0 + y1) / 2) / max((y1 - y0) / 2, 1e-9))[:, None]
    if fill >= 0.85:
        cells: NDArray[np.bool_] = np.maximum(u, v) <= 1.0
    elif fill >= 0.6:
        cells = u * u + v * v <= 1.0
    else:
        cells = u + v <= 1.0
    middle_x, middle_y = seen.centre
    cells[min(int(middle_y * rows), rows - 1), min(int(middle_x * columns), columns - 1)] = True
    return cells
