"""One batch of prepared pictures to an engine, wherever each of them is.

A picture is prepared on the host or, where an engine takes it from there, on the device; those of one batch may differ,
since what the device cannot decode is decoded by the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from serving.engine.protocol import Engine, EngineError, Tensor
from serving.engine.stacking import BatchBuffer
from serving.engine.tensorrt.device import PlacedTensor

Row = NDArray[Any] | PlacedTensor
"""One item of a batch, without the batch axis: in host memory, or on the device."""


@runtime_checkable
class PlacingEngine(Engine, Protocol):
    """An engine that takes rows from its own device."""

    def run_rows(self, inputs: Mapping[str, Sequence[Row]]) -> dict[str, Tensor]:
        """As `run`, with every input as its rows. Raises EngineError as `run` does, and for rows of unequal shapes."""
        ...


def run_rows(
    engine: Engine, inputs: Mapping[str, Sequence[Row]], buffers: Mapping[str, BatchBuffer]
) -> dict[str, Tensor]:
    """Run a batch: every input as its rows. `buffers` are where rows of the host become a batch, one for each input.

    Rows of the host alone run on any engine. Raises EngineError where the engine does not take rows from a device, and
    what its `run` raises; ValueError for no rows or rows of several shapes.
    """
    on_host = {name: [row for row in rows if isinstance(row, np.ndarray)] for name, rows in inputs.items()}
    if all(len(on_host[name]) == len(rows) for name, rows in inputs.items()):
        return engine.run({name: buffers[name].stack(rows) for name, rows in on_host.items()})
    if not isinstance(engine, PlacingEngine):
        raise EngineError(f"{engine.name}: takes no pictures that were prepared on a device")
    return engine.run_rows(inputs)
