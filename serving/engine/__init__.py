"""Inference engines behind one protocol.

`OnnxRuntimeEngine` is resolved on first use, so that what only needs the protocol or the fake (tests, pure
model code) does not load ONNX Runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serving.engine.fake import FakeEngine
from serving.engine.protocol import DeviceLostError, Engine, EngineError, Tensor, TensorSpec

if TYPE_CHECKING:
    from serving.engine.onnxruntime import OnnxRuntimeEngine

__all__ = [
    "DeviceLostError",
    "Engine",
    "EngineError",
    "FakeEngine",
    "OnnxRuntimeEngine",
    "Tensor",
    "TensorSpec",
]


def __getattr__(name: str) -> Any:
    if name == "OnnxRuntimeEngine":
        from serving.engine.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
