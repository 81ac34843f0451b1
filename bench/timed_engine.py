"""An engine that says how long it was busy: what a model spends inside its network, and what around it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from serving.engine import Engine, TensorSpec


class TimedEngine:
    """An `Engine` that adds up the seconds spent in `run`."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner
        self.seconds = 0.0

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._inner.outputs

    @property
    def max_batch(self) -> int:
        return self._inner.max_batch

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        start = time.perf_counter()
        outputs = self._inner.run(inputs)
        self.seconds += time.perf_counter() - start
        return outputs

    def close(self) -> None:
        self._inner.close()
