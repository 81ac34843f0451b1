"""What an inference engine is: named tensors in, named tensors out, a largest batch.

`model.py` of an expert is written against `Engine` alone, so that the same code runs on ONNX Runtime, on
TensorRT, and on `FakeEngine` in tests. The rules about names, shapes, dtypes and batch size live here once,
and every engine applies them through `check_inputs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[Any]


class EngineError(Exception):
    """An engine could not be built, or was used against its own specification.

    Never the caller's fault: a request that gets this far was already validated, so on the wire it becomes
    an internal error and the text goes to the log.
    """


class DeviceLostError(EngineError):
    """The device is lost to this process: whatever is asked of the engine from now on fails too, and only another
    process can mend it. On the wire UNAVAILABLE; the process says NOT_SERVING and ends (`serving.server`).
    """


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of a graph.

    `shape` holds an int for a fixed dimension and a name for a dynamic one; axis 0 is the batch.
    `dtype` is numpy's name for the element type ("float32", "int64").
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether `shape` has this rank and equals every fixed dimension."""
        return len(shape) == len(self.shape) and all(
            isinstance(want, str) or want == have for want, have in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@runtime_checkable
class Engine(Protocol):
    """Runs one graph. Blocking, and used by one caller at a time (the batcher's device thread)."""

    @property
    def name(self) -> str:
        """Which engine on which device, for `Describe` and metrics ("onnxruntime-cpu")."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Every input tensor; all are required."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Every output tensor, in the graph's order."""
        ...

    @property
    def max_batch(self) -> int:
        """The largest size of axis 0 that `run` takes."""
        ...

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run one batch.

        Returns every output by name. Raises EngineError when the inputs do not match the specification,
        when the batch is above `max_batch`, when the engine is closed, or when the graph itself fails;
        DeviceLostError when the device is gone, and ever after.
        """
        ...

    def close(self) -> None:
        """Give the device back. Closing twice is harmless; `run` afterwards raises EngineError."""
        ...


def check_inputs(
    engine: str, specs: tuple[TensorSpec, ...], inputs: Mapping[str, Tensor], max_batch: int
) -> None:
    """Hold `inputs` against `specs`; raise EngineError with everything needed to mend the call.

    Checked: exactly the named inputs, numpy dtype, rank and fixed dimensions, one batch size across all
    inputs with a dynamic axis 0, and 1 <= batch <= max_batch.
    """
    expected = {spec.name for spec in specs}
    if inputs.keys() != expected:
        missing, unknown = sorted(expected - inputs.keys()), sorted(inputs.keys() - expected)
        wanted = "; ".join(map(str, specs))
        raise EngineError(f"{engine}: takes {wanted}; missing {missing}, unknown {unknown}")
    batches: dict[str, int] = {}
    for spec in specs:
        array = inputs[spec.name]
        if array.dtype != np.dtype(spec.dtype) or not spec.accepts(array.shape):
            raise EngineError(f"{engine}: input {spec} does not take {array.dtype}{list(array.shape)}")
        if array.ndim and isinstance(spec.shape[0], str):
            batches[spec.name] = array.shape[0]
    if len(set(batches.values())) > 1:
        raise EngineError(f"{engine}: inputs disagree on the batch size: {batches}")
    for size in set(batches.values()):
        if not 1 <= size <= max_batch:
            raise EngineError(f"{engine}: a batch of {size} is outside 1..{max_batch}")
