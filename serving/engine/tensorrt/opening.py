"""From a graph's name to an engine that runs: the right plan out of the store, on the GPU of this machine.

Not run on hardware.
"""

from __future__ import annotations

from serving.engine.tensorrt.engine import TensorRTEngine
from serving.engine.tensorrt.errors import TargetUnsupportedError
from serving.engine.tensorrt.gpu import present_gpus
from serving.engine.tensorrt.library import TensorRTLibrary
from serving.engine.tensorrt.plan import Precision
from serving.engine.tensorrt.store import PlanStore


def open_tensorrt(
    graph: str,
    onnx_sha256: str,
    *,
    store: PlanStore,
    library: TensorRTLibrary,
    precision: Precision = "fp16",
    gpu: int = 0,
) -> TensorRTEngine:
    """The engine of `graph` on the GPU of this index; loads torch.

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
    )
    from serving.engine.tensorrt.cuda import CudaDevice

    return TensorRTEngine(plan, library, CudaDevice(gpu), target=target, onnx_sha256=onnx_sha256)
