"""TensorRT as an engine: plans are built offline, kept in a store, and run on the GPU they were built for.

Importing this package loads neither TensorRT nor torch: the TensorRT library is found by capability
(`library.py`) and handed to everything else as an argument, so that the same builder runs with `tensorrt` on a
GPU and with `tensorrt_rtx` on a machine without one. torch is loaded by `cuda.py` alone.
"""

from __future__ import annotations

from serving.engine.tensorrt.builder import BuildRequest, Built, build_plan
from serving.engine.tensorrt.errors import (
    BuildFailedError,
    GraphRefusedError,
    LibraryAbsentError,
    PlanAbsentError,
    PlanCorruptError,
    PlanMismatchError,
    StoreFullError,
    TargetUnsupportedError,
    TensorRTError,
)
from serving.engine.tensorrt.library import TensorRTLibrary, load_library
from serving.engine.tensorrt.plan import PlanKey, PlanSidecar, check_plan
from serving.engine.tensorrt.profiles import Profile, ShapeRange

__all__ = [
    "BuildFailedError",
    "BuildRequest",
    "Built",
    "GraphRefusedError",
    "LibraryAbsentError",
    "PlanAbsentError",
    "PlanCorruptError",
    "PlanKey",
    "PlanMismatchError",
    "PlanSidecar",
    "Profile",
    "ShapeRange",
    "StoreFullError",
    "TargetUnsupportedError",
    "TensorRTError",
    "TensorRTLibrary",
    "build_plan",
    "check_plan",
    "load_library",
]
