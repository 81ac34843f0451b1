"""Execution contexts: how they are made with either library, and whether their runs can be recorded.

`tensorrt_rtx` compiles kernels for the shapes it meets. By its own choice it does so behind the back of the runs, with
slower kernels meanwhile, and a recording made then would keep the slower ones for good: it is told to compile when it
is told the shapes. It also says whether a run may be recorded; `tensorrt` has neither question. Both are asked by
capability.

Not run on hardware.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt_rtx as types

    from serving.engine.tensorrt.library import TensorRTLibrary


def create_context(library: TensorRTLibrary, engine: types.ICudaEngine) -> types.IExecutionContext | None:
    """A context whose scratch memory the caller brings; None where the library makes none."""
    strategy = library.module.ExecutionContextAllocationStrategy.USER_MANAGED
    specialization: Any = getattr(library.module, "DynamicShapesKernelSpecializationStrategy", None)
    if specialization is None:
        return engine.create_execution_context(strategy)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    config.dynamic_shapes_kernel_specialization_strategy = specialization.EAGER
    return engine.create_execution_context(config)


def can_record(context: types.IExecutionContext, stream: int) -> bool:
    """Whether a run of the shapes that `context` was told can be recorded. The library may be wrong the other way: what
    it is silent about is found out by recording."""
    asked: Any = getattr(context, "is_stream_capturable", None)
    return asked is None or bool(asked(stream))
