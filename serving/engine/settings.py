"""What every process that runs a graph can be told from its environment: which engine, and how much of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from serving.engine.providers import Providers
from serving.engine.tensorrt.plan import Precision
from serving.settings import ServerSettings


class EngineSettings(ServerSettings):
    """`ServerSettings` of a process with engines."""

    engine: Literal["onnxruntime", "tensorrt"] = Field(
        "onnxruntime",
        description="tensorrt runs plans built offline by `polysight engines build`; it has not run on hardware",
    )
    threads: int = Field(0, ge=0, description="threads of one inference on a CPU; 0: one per core")
    providers: Providers = Field(
        ("cpu",), description="where ONNX Runtime computes, first choice first: tensorrt, cuda, cpu"
    )
    plans: Path | None = Field(
        None, description="folder of TensorRT plans; unset: `engines` in the weights' cache"
    )
    precision: Precision = Field("fp16", description="of the plan: fp32, fp16, bf16, int8 or fp8")
    gpu: int = Field(0, ge=0, description="which GPU runs the plan, as the driver counts them")
    device_preparation: bool = Field(
        True,
        description="decode and scale JPEG on the GPU where the plan runs there and nvImageCodec is installed; "
        "it has not run on hardware",
    )


def default_batch(settings: Mapping[str, Any]) -> int:
    """The `default_factory` of a `max_batch`: the most images that share an inference where nobody says.

    `settings`: those of an `EngineSettings` validated so far. On a CPU eight pictures take as long as eight times one,
    and hold a quarter of a gigabyte more than two for as long as the process lives.
    """
    on_cpu = settings.get("engine") == "onnxruntime" and settings.get("providers") == ("cpu",)
    return 2 if on_cpu else 8
