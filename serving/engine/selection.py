"""The engine that a process's settings name, over one graph."""

from __future__ import annotations

from pathlib import Path

from serving.engine.protocol import Engine
from serving.engine.providers import onnxruntime_providers
from serving.engine.settings import EngineSettings


def open_engine(graph: str, onnx: Path, settings: EngineSettings, *, max_batch: int) -> Engine:
    """An engine over the ONNX file, called `graph`: in the table of graphs (`polysight engines check` lists them), or,
    for a file of one's own, where `polysight engines build --onnx` built it (its stem, or what `--name` said).

    With `engine` tensorrt the store must hold a plan that was built of this very file; its profile says how large a
    batch may be, `max_batch` what ONNX Runtime takes.

    Raises EngineError when the file cannot be loaded or a provider does not start; where TensorRT, the GPU or the plan
    is missing, the error says what to install, or the command that builds it.
    """
    if settings.engine == "tensorrt":
        return _tensorrt(graph, onnx, settings)
    from serving.engine.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(
        onnx,
        threads=settings.threads,
        max_batch=max_batch,
        providers=onnxruntime_providers(settings.providers),
    )


def own_file(onnx: Path, cache: Path) -> Path | None:
    """`onnx` in full if it is a graph of one's own; None for one of the project's, which lie in the weights' cache."""
    full = onnx.resolve()
    return None if full.is_relative_to(cache.resolve()) else full


def _tensorrt(graph: str, onnx: Path, settings: EngineSettings) -> Engine:
    from serving.engine.graph import cast_graph
    from serving.engine.tensorrt.library import load_library
    from serving.engine.tensorrt.opening import PlanWeights, open_tensorrt
    from serving.engine.tensorrt.plan import graph_digest
    from serving.engine.tensorrt.store import PlanStore
    from serving.weights import WeightStore
    from serving.weights.store import default_root

    digest, cache = graph_digest(onnx), default_root()

    def weights() -> PlanWeights:
        return cast_graph(graph, onnx, digest, settings.precision, WeightStore(cache))

    return open_tensorrt(
        graph,
        digest,
        store=PlanStore(settings.plans if settings.plans is not None else cache / "engines"),
        library=load_library(),
        precision=settings.precision,
        gpu=settings.gpu,
        file=own_file(onnx, cache) or "",
        weights=weights,
    )
