"""From a graph to an engine that runs: the right plan out of the store, on the GPU of this machine.

Not run on hardware.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.engine.tensorrt.engine import TensorRTEngine
from serving.engine.tensorrt.errors import PlanMismatchError, TargetUnsupportedError
from serving.engine.tensorrt.gpu import present_gpus
from serving.engine.tensorrt.library import TensorRTLibrary
from serving.engine.tensorrt.plan import Precision
from serving.engine.tensorrt.store import PlanStore, StoredPlan


@dataclass(frozen=True)
class PlanWeights:
    """The graph in the precision of a plan, and the recipe of the cast that gave it (empty: none was needed)."""

    onnx: Path
    recipe: str


def open_tensorrt(
    graph: str,
    onnx_sha256: str,
    *,
    store: PlanStore,
    library: TensorRTLibrary,
    precision: Precision = "fp16",
    gpu: int = 0,
    file: str | Path = "",
    weights: Callable[[], PlanWeights] | None = None,
) -> TensorRTEngine:
    """The engine of `graph` on the GPU of this index; loads torch.

    `file`: the graph's ONNX file where it is one's own, for the command in a refusal. `weights` is asked for the graph
    in this precision if the plan that fits has none of its own.

    Raises TargetUnsupportedError where there is no such GPU, and what `PlanStore.select` and `TensorRTEngine` raise:
    where a plan is missing or for elsewhere, the error names the command that builds it.
    """
    gpus = present_gpus()
    if gpu >= len(gpus):
        raise TargetUnsupportedError(f"no GPU {gpu}: the driver lists {len(gpus)}")
    target = gpus[gpu].target
    plan = store.select(
        graph,
        precision,
        onnx_sha256=onnx_sha256,
        library=library.name,
        version=library.version,
        target=target,
        file=file,
    )
    source = plan_weights(plan, weights)
    from serving.engine.tensorrt.cuda import CudaDevice

    return TensorRTEngine(
        plan, library, CudaDevice(gpu), target=target, onnx_sha256=onnx_sha256, weights=source
    )


def plan_weights(plan: StoredPlan, weights: Callable[[], PlanWeights] | None) -> Path | None:
    """Where a plan without weights gets them; None for a whole plan, for which `weights` is not asked.

    Raises PlanMismatchError when the graph is cast by another recipe here than where the plan was built: the weights
    would be others.
    """
    key = plan.sidecar.key
    if not key.stripped or weights is None:
        return None
    found = weights()
    if found.recipe != key.recipe:
        raise PlanMismatchError(
            f"plan of {key.graph} ({key.precision}) has no weights and was built from a graph cast by "
            f"{key.recipe or 'nothing'}; here it is cast by {found.recipe or 'nothing'}",
            plan.sidecar.command,
        )
    return found.onnx
