"""The setting `providers`: where ONNX Runtime runs a graph, as `DETECTION_PROVIDERS=tensorrt,cuda,cpu`.

The first that takes an operator runs it. CPU is the default; the others need an ONNX Runtime built with them and a
GPU, and a process whose provider does not start stops at start (`OnnxRuntimeEngine` sees to that). They have not been
run on hardware. ONNX Runtime's own TensorRT provider links a TensorRT of its own and builds at start; plans built
offline are for `serving/engine/tensorrt`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

ProviderName = Literal["cpu", "cuda", "tensorrt"]

_NAMES: dict[ProviderName, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def _split(value: object) -> object:
    """The environment has one string; code has a tuple."""
    return tuple(part.strip().lower() for part in value.split(",")) if isinstance(value, str) else value


def _sensible(providers: tuple[ProviderName, ...]) -> tuple[ProviderName, ...]:
    if not providers or len(set(providers)) != len(providers):
        raise ValueError("name each provider once, and at least one")
    if "cpu" in providers[:-1]:
        raise ValueError("the CPU takes every operator, so what stands after it is never used: put cpu last")
    return providers


Providers = Annotated[tuple[ProviderName, ...], NoDecode, BeforeValidator(_split), AfterValidator(_sensible)]
"""A field of a settings class; the environment holds the names separated by commas."""


def onnxruntime_providers(providers: tuple[ProviderName, ...]) -> tuple[str, ...]:
    """As ONNX Runtime calls them."""
    return tuple(_NAMES[provider] for provider in providers)
