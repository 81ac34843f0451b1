"""A graph that the project exports, with what an engine builder has to know of it.

Each expert's graphs are entered in one table (`cli/graphs.py`), from which plans are built and checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.engine.precision import HALF_RECIPE, cast_to_half
from serving.engine.tensorrt.library import TensorRTLibrary
from serving.engine.tensorrt.plan import PlanKey, Precision, graph_digest
from serving.engine.tensorrt.profiles import Profile
from serving.weights import WeightStore


@dataclass(frozen=True)
class ExportedGraph:
    """One ONNX graph.

    `export` gives the file, exporting or fetching it where that has not been done. `profiles` are the shapes a plan is
    built for, `sample` shapes of every input that are quick to run on a CPU. `full` marks a graph of production size,
    which is built only when asked for.
    """

    name: str
    export: Callable[[WeightStore], Path]
    profiles: tuple[Profile, ...]
    sample: Mapping[str, tuple[int, ...]]
    full: bool = False


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

    def key(self, library: TensorRTLibrary, targets: tuple[str, ...]) -> PlanKey:
        """The plan of this graph by this library for these architectures."""
        return PlanKey(
            graph=self.graph.name,
            onnx_sha256=self.digest,
            precision=self.precision,
            recipe=self.recipe,
            library=library.name,
            library_version=library.version,
            targets=targets,
            profiles=self.graph.profiles,
        )


def prepare_graph(graph: ExportedGraph, precision: Precision, weights: WeightStore) -> PreparedGraph:
    """Export the graph if need be, and cast it to `precision`; both are cached.

    Raises WeightsUnavailableError, or what the exporter raises.
    """
    source = graph.export(weights)
    digest = graph_digest(source)
    if precision == "fp32":
        return PreparedGraph(graph, precision, source, source, digest, "")
    onnx = weights.derive(
        f"{graph.name}.{precision}.onnx",
        key=f"{digest} {HALF_RECIPE}",
        build=lambda destination: cast_to_half(source, destination),
    )
    return PreparedGraph(graph, precision, source, onnx, digest, HALF_RECIPE)
