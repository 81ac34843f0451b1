"""One graph in one precision through the parser, the builder and ONNX Runtime: what `engines check` tells of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypedDict

from serving.engine.compare import difference
from serving.engine.graph import ExportedGraph, prepare_graph
from serving.engine.protocol import EngineError
from serving.engine.tensorrt import BuildRequest, GraphRefusedError, TensorRTLibrary, build_plan
from serving.engine.tensorrt.plan import Precision
from serving.weights import WeightStore

if TYPE_CHECKING:
    from serving.engine.tensorrt.builder import OnStep


class Checked(TypedDict):
    """`built`: one plan for all targets came out; `seconds` to parse and build it, `bytes` its size.

    `max_abs_diff_onnx`: in ONNX Runtime, the graph in this precision against the graph as exported; in fp32, where both
    are one, all of ONNX Runtime's optimisations against none. `max_rel_diff_onnx` is relative to each output's largest
    value. Both are None, and `error` says why, where there was nothing to compare.
    """

    parsed: bool
    built: bool
    seconds: float
    bytes: int
    max_abs_diff_onnx: float | None
    max_rel_diff_onnx: float | None
    error: str


def check_graph(
    graph: ExportedGraph,
    precision: Precision,
    library: TensorRTLibrary,
    targets: tuple[str, ...],
    weights: WeightStore,
    *,
    on_step: OnStep | None = None,
) -> Checked:
    """Never raises EngineError: what refuses the graph is in `error`. Raises WeightsUnavailableError."""
    told: Checked = {
        "parsed": True,
        "built": False,
        "seconds": 0.0,
        "bytes": 0,
        "max_abs_diff_onnx": None,
        "max_rel_diff_onnx": None,
        "error": "",
    }
    prepared = prepare_graph(graph, precision, weights)
    started = time.perf_counter()
    try:
        built = build_plan(library, BuildRequest(prepared.onnx, graph.profiles, targets), on_step=on_step)
        told["built"] = True
        told["bytes"] = len(built.plan)
        told["seconds"] = round(time.perf_counter() - started, 3)
        apart = difference(prepared.source, prepared.onnx, graph.sample)
        told["max_abs_diff_onnx"] = apart.absolute
        told["max_rel_diff_onnx"] = apart.relative
    except EngineError as error:
        told["parsed"] = not isinstance(error, GraphRefusedError)
        told["seconds"] = told["seconds"] or round(time.perf_counter() - started, 3)
        told["error"] = str(error)
    return told
