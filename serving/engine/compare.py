"""How far two ONNX graphs, or two ways of running one, lie apart: ONNX Runtime on the CPU, random inputs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from serving.engine.protocol import EngineError, Tensor

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
class Difference:
    """Over all outputs: the largest absolute difference, and the largest relative to its output's largest value.

    `seconds`: what the one run of the reference took.
    """

    absolute: float
    relative: float
    seconds: float


def difference(
    reference: Path,
    other: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    seed: int = 0,
    optimised: bool = True,
) -> Difference:
    """Run both graphs on the same random inputs (floats uniform in [0, 1), integers and booleans one), one after the
    other, so that one set of weights is in memory at a time.

    A graph against itself is run with all of ONNX Runtime's optimisations against with none: how far two honest
    executions of it lie apart. `optimised` unset runs the other with none in any case: its optimisers may take a cast
    there and back for nothing. Raises EngineError when either cannot be run or gives other shapes or NaN.
    """
    ours = _session(reference, optimised=True)
    names = [node.name for node in ours.get_outputs()]
    inputs = _inputs(ours, shapes, np.random.default_rng(seed))
    started = time.perf_counter()
    expected = _run(ours, reference, inputs)
    seconds = time.perf_counter() - started
    del ours
    found = _run(_session(other, optimised=optimised and reference != other), other, inputs)
    absolute = relative = 0.0
    for name, want, have in zip(names, expected, found, strict=True):
        if want.shape != have.shape or not np.isfinite(have).all():
            raise EngineError(f"{other.name}: {name} has another shape, or values that are no numbers")
        apart = float(np.abs(want.astype(np.float64) - have.astype(np.float64)).max(initial=0))
        absolute = max(absolute, apart)
        relative = max(relative, apart / max(float(np.abs(want).max(initial=0)), 1e-12))
    return Difference(absolute, relative, seconds)


def _run(session: ort.InferenceSession, model: Path, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    try:
        outputs: list[Tensor] = session.run(None, dict(inputs))
    except Exception as error:  # onnxruntime's exception classes share no base but Exception
        raise EngineError(f"{model.name}: the graph failed: {error}") from error
    return outputs


def _session(model: Path, *, optimised: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(model), sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise EngineError(f"{model.name}: cannot be loaded: {error}") from error


def _inputs(
    session: ort.InferenceSession, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator
) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    for node in session.get_inputs():
        dtype = _DTYPES.get(node.type)
        if dtype is None or node.name not in shapes:
            raise EngineError(f"no sample for input {node.name} of type {node.type}")
        shape = shapes[node.name]
        inputs[node.name] = rng.random(shape, np.float32) if dtype is np.float32 else np.ones(shape, dtype)
    return inputs
