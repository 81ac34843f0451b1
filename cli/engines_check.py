"""One graph in one precision through the parser, the builder and ONNX Runtime: what `engines check` tells of it."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from serving.engine.bfloat16 import widen
from serving.engine.compare import Difference, difference
from serving.engine.graph import ExportedGraph, PreparedGraph, prepare_graph
from serving.engine.protocol import EngineError
from serving.engine.quantization import Calibration
from serving.engine.tensorrt import BuildRequest, GraphRefusedError, TensorRTLibrary, build_plan
from serving.engine.tensorrt.plan import CALIBRATED, Precision
from serving.weights import WeightStore

if TYPE_CHECKING:
    from serving.engine.tensorrt.builder import OnStep


class Checked(TypedDict):
    """`built`: one plan for all targets came out; `seconds` to parse and build it, `bytes` its size. `parsed` and
    `built` are None where nothing was to be built.

    `max_abs_diff_onnx`: in ONNX Runtime, the graph in this precision against the graph as exported; in fp32, where both
    are one, all of ONNX Runtime's optimisations against none; in bf16, of the graph that `bfloat16.widen` writes.
    `max_rel_diff_onnx` is relative to each output's largest value, `run_seconds` what one run of the exported graph
    took. All three are None, and `error` says why, where there was nothing to compare.

    `export_seconds`: exporting and casting, next to nothing where both were cached. `peak_mb`: the most memory that
    this process has held so far, in 10^6 bytes.
    """

    parsed: bool | None
    built: bool | None
    seconds: float
    bytes: int
    max_abs_diff_onnx: float | None
    max_rel_diff_onnx: float | None
    run_seconds: float | None
    export_seconds: float
    peak_mb: float
    error: str


def check_graph(
    graph: ExportedGraph,
    precision: Precision,
    library: TensorRTLibrary | None,
    targets: tuple[str, ...],
    weights: WeightStore,
    *,
    calibration: Callable[[Path], Calibration] | None = None,
    on_step: OnStep | None = None,
) -> Checked:
    """Without a library nothing is parsed or built. What refuses the graph is in `error`. `calibration`: as for
    `prepare_graph`.

    Raises WeightsUnavailableError, and EngineError where there is no graph to check.
    """
    told: Checked = {
        "parsed": None if library is None else True,
        "built": None if library is None else False,
        "seconds": 0.0,
        "bytes": 0,
        "max_abs_diff_onnx": None,
        "max_rel_diff_onnx": None,
        "run_seconds": None,
        "export_seconds": 0.0,
        "peak_mb": 0.0,
        "error": "",
    }
    started = time.perf_counter()
    try:
        prepared = prepare_graph(graph, precision, weights, calibration=calibration)
    except EngineError as error:
        if precision not in CALIBRATED:
            raise
        # The graph is there, and eight bits are not for it: networks of convolutions alone have no float8.
        told["parsed"], told["built"], told["error"] = None, None, str(error)
        return told
    told["export_seconds"] = round(time.perf_counter() - started, 3)
    started = time.perf_counter()
    try:
        if library is not None:
            built = build_plan(library, BuildRequest(prepared.onnx, graph.profiles, targets), on_step=on_step)
            told["built"] = True
            told["bytes"] = len(built.plan)
            told["seconds"] = round(time.perf_counter() - started, 3)
            del built
        apart = _difference(prepared)
        told["max_abs_diff_onnx"] = apart.absolute
        told["max_rel_diff_onnx"] = apart.relative
        told["run_seconds"] = round(apart.seconds, 3)
    except EngineError as error:
        if library is not None:
            told["parsed"] = not isinstance(error, GraphRefusedError)
            told["seconds"] = told["seconds"] or round(time.perf_counter() - started, 3)
        told["error"] = str(error)
    # Linux counts in KiB.
    told["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1)
    return told


def _difference(prepared: PreparedGraph) -> Difference:
    if prepared.precision != "bf16":
        # Pairs of eight bits are run one by one: on some processors fused int8 products saturate.
        optimised = prepared.precision not in CALIBRATED
        return difference(prepared.source, prepared.onnx, prepared.graph.sample, optimised=optimised)
    with tempfile.TemporaryDirectory() as folder:
        widened = Path(folder) / prepared.onnx.name
        widen(prepared.onnx, widened)
        return difference(prepared.source, widened, prepared.graph.sample, optimised=False)
