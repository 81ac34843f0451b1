"""Networks that answer a picture with queries of a class and a mask each: Mask2Former and EoMT, up to their tensors.

How a picture becomes the input, and how queries become a partition, differs between the two; the graph does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.engine import Engine
from serving.engine.rows import Row, run_rows
from serving.engine.stacking import BatchBuffer

Float = NDArray[np.float32]

_CLASSES, _MASKS = "class_queries_logits", "masks_queries_logits"


@dataclass(frozen=True)
class Prepared:
    """A picture ready for the network, (3, h, w) float32, and its own height and width in pixels."""

    tensor: Row
    height: int
    width: int


@dataclass(frozen=True)
class Raw:
    """What the network said of one picture: (Q, classes + 1) and (Q, h/4, w/4), float32; the picture's own size."""

    class_logits: Float
    mask_logits: Float
    height: int
    width: int


class QueryNetwork:
    """A graph of one input of a fixed size and two outputs, behind an engine.

    `kind` names the network in errors. Raises ValueError when the graph is another, or not of so many `classes`.
    """

    def __init__(self, engine: Engine, *, kind: str, classes: int) -> None:
        self._size = _input_size(engine, kind, classes)
        self._input = engine.inputs[0].name
        self._engine = engine
        self._buffer = BatchBuffer()

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the input in pixels."""
        return self._size

    @property
    def warm_up_sizes(self) -> tuple[int, ...]:
        """One picture, and as many as the engine takes."""
        return tuple(sorted({1, self._engine.max_batch}))

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """Blocking; one caller at a time. Raises EngineError for more pictures than the engine takes."""
        rows = {self._input: [item.tensor for item in batch]}
        said = run_rows(self._engine, rows, {self._input: self._buffer})
        return [
            Raw(classes, masks, item.height, item.width)
            for classes, masks, item in zip(said[_CLASSES], said[_MASKS], batch, strict=True)
        ]


def _input_size(engine: Engine, kind: str, classes: int) -> tuple[int, int]:
    outputs = {spec.name: spec.shape for spec in engine.outputs}
    if len(engine.inputs) != 1 or not {_CLASSES, _MASKS} <= outputs.keys():
        raise ValueError(f"the graph is no {kind}: it gives {', '.join(outputs) or 'nothing'}")
    scored = outputs[_CLASSES][-1]
    if isinstance(scored, int) and scored != classes + 1:
        raise ValueError(f"the graph has {scored - 1} classes, its labels are {classes}")
    shape = engine.inputs[0].shape
    height, width = shape[2:] if len(shape) == 4 else (None, None)
    if not isinstance(height, int) or not isinstance(width, int):
        raise ValueError(f"the graph does not say its input's size: {engine.inputs[0]}")
    return height, width
