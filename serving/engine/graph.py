"""A graph that plans are built from, with what an engine builder has to know of it.

Each expert's graphs are entered in one table (`cli/graphs.py`), from which plans are built and checked; graphs of one's
own are described by a command line (`cli/engines_onnx.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from serving.engine.bfloat16 import BFLOAT16_RECIPE, cast_to_bfloat16
from serving.engine.precision import HALF_RECIPE, cast_to_half
from serving.engine.protocol import EngineError
from serving.engine.quantization import Calibration, EightBits, quantize_graph
from serving.engine.tensorrt.library import TensorRTLibrary
from serving.engine.tensorrt.opening import PlanWeights
from serving.engine.tensorrt.plan import PlanKey, Precision, graph_digest
from serving.engine.tensorrt.profiles import Profile
from serving.weights import WeightStore

_CASTS: dict[Precision, tuple[str, Callable[[Path, Path], None]]] = {
    "fp16": (HALF_RECIPE, cast_to_half),
    "bf16": (BFLOAT16_RECIPE, cast_to_bfloat16),
}

_EIGHT_BITS: dict[Precision, EightBits] = {"int8": "int8", "fp8": "fp8"}


@dataclass(frozen=True)
class ExportedGraph:
    """One ONNX graph.

    `export` gives the file, exporting or fetching it where that has not been done. `profiles` are the shapes a plan is
    built for, `sample` shapes of every input that are quick to run on a CPU. `full` marks a graph of production size,
    which is built only when asked for. `file` is the path of a graph of one's own, empty for one of the project's.
    """

    name: str
    export: Callable[[WeightStore], Path]
    profiles: tuple[Profile, ...]
    sample: Mapping[str, tuple[int, ...]]
    full: bool = False
    file: str = ""


@dataclass(frozen=True)
class PreparedGraph:
    """A graph in one precision: the file that is built, the digest of the graph as exported, and how one became the
    other (empty: they are one).
    """

    graph: ExportedGraph
    precision: Precision
    source: Path
    onnx: Path
    digest: str
    recipe: str

    def key(self, library: TensorRTLibrary, targets: tuple[str, ...], *, stripped: bool = False) -> PlanKey:
        """The plan of this graph by this library for these architectures, with or without its weights."""
        return PlanKey(
            graph=self.graph.name,
            onnx_sha256=self.digest,
            precision=self.precision,
            recipe=self.recipe,
            library=library.name,
            library_version=library.version,
            targets=targets,
            profiles=self.graph.profiles,
            stripped=stripped,
        )


def prepare_graph(
    graph: ExportedGraph,
    precision: Precision,
    weights: WeightStore,
    *,
    calibration: Callable[[Path], Calibration] | None = None,
) -> PreparedGraph:
    """Export the graph if need be, and cast it to `precision`; both are cached.

    `calibration` is asked for precisions of eight bits alone; it gets the exported file.

    Raises WeightsUnavailableError, EngineError for a file that is no graph, or what the exporter raises.
    """
    source = graph.export(weights)
    digest = graph_digest(source)
    cast = cast_graph(graph.name, source, digest, precision, weights, calibration=calibration)
    return PreparedGraph(graph, precision, source, cast.onnx, digest, cast.recipe)


def cast_graph(
    name: str,
    source: Path,
    digest: str,
    precision: Precision,
    weights: WeightStore,
    *,
    calibration: Callable[[Path], Calibration] | None = None,
) -> PlanWeights:
    """The graph in `precision`, cast once and cached; `digest` is that of `source`.

    Raises EngineError, also for eight bits without a calibration.
    """
    if precision == "fp32":
        return PlanWeights(source, "")
    if (bits := _EIGHT_BITS.get(precision)) is not None:
        if calibration is None:
            raise EngineError(f"{name} in {precision} needs pictures to calibrate on: --calibration FOLDER")
        measured = calibration(source)
        recipe = measured.recipe(bits)
        build: Callable[[Path], None] = partial(_quantized, source, bits, measured)
    else:
        recipe, cast = _CASTS[precision]
        build = partial(cast, source)
    onnx = weights.derive(f"{name}.{precision}.onnx", key=f"{digest} {recipe}", build=build)
    return PlanWeights(onnx, recipe)


def _quantized(source: Path, bits: EightBits, calibration: Calibration, destination: Path) -> None:
    quantize_graph(source, destination, bits, calibration)
