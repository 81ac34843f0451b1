"""What the detection process can be told from its environment, `DETECTION_*`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from serving.engine.providers import Providers
from serving.settings import Port, ServerSettings


class DetectionSettings(ServerSettings):
    """Besides what every server has: the model's own limits and defaults."""

    model_config = SettingsConfigDict(env_prefix="DETECTION_")

    port: Port = Field(50062, description="gRPC port; 0 picks a free one")
    metrics_port: Port = Field(51062, description="Prometheus HTTP port; 0 serves no metrics")
    threads: int = Field(0, ge=0, description="threads of one inference; 0: one per core")
    providers: Providers = Field(
        ("cpu",), description="where ONNX Runtime computes, first choice first: tensorrt, cuda, cpu"
    )
    workers: int = Field(2, ge=1, description="threads that decode, scale and post-process")
    max_batch: int = Field(8, ge=1, description="the most images that share an inference")
    max_queue: int = Field(64, ge=1, description="waiting images above which a new one is refused")
    score_threshold: float = Field(0.25, ge=0, le=1, description="least score where a request sets none")
    max_detections: int = Field(
        300, ge=1, le=1000, description="the most detections where a request sets none"
    )
    rectangular: bool = Field(True, description="keep the picture's ratio; false pads it to a square of 640")
