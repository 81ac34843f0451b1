"""What the detection process can be told from its environment, `DETECTION_*`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from serving.engine.settings import EngineSettings, default_batch
from serving.settings import Port


class DetectionSettings(EngineSettings):
    """Besides what every server has: the model's own limits and defaults."""

    model_config = SettingsConfigDict(env_prefix="DETECTION_")

    port: Port = Field(50062, description="gRPC port; 0 picks a free one")
    metrics_port: Port = Field(51062, description="Prometheus HTTP port; 0 serves no metrics")
    workers: int = Field(2, ge=1, description="threads that decode, scale and post-process")
    max_batch: int = Field(
        default_factory=default_batch,
        ge=1,
        description="the most images that share an inference; unset: 2 on a CPU (more cost memory, not time), else 8",
    )
    max_queue: int = Field(64, ge=1, description="waiting images above which a new one is refused")
    score_threshold: float | None = Field(
        None, ge=0, le=1, description="least score where a request sets none; unset: the backend's own"
    )
    max_detections: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="the most detections where a request sets none; unset: the backend's own",
    )
    rectangular: bool = Field(
        True, description="keep the picture's ratio; false pads it to a square of 640 (yolo)"
    )
    backend: Literal["yolo", "owlv2", "yolo-world"] = Field("yolo", description="which network detects")
    model_path: Path | None = Field(
        None, description="the exported folder (owlv2) or graph (yolo-world); yolo fetches its own"
    )
    model_licence: str = Field(
        "LicenseRef-unstated", description="licence of the weights in `model_path`, as Describe reports it"
    )
    vocabulary_path: Path | None = Field(
        None,
        description="the words to look for, one a line (owlv2; unset: the 1,847 of the published system), or those "
        "that the graph was made with (yolo-world)",
    )
    vocabulary_template: str = Field(
        "{}", description="what is put around each of those words, {} standing for it (owlv2)"
    )
    phrase_cache: int = Field(
        16384, ge=1, description="phrases of requests whose embeddings are kept in memory (owlv2)"
    )

    @model_validator(mode="after")
    def _what_a_backend_needs(self) -> Self:
        if self.backend == "owlv2" and self.model_path is None:
            raise ValueError(
                "backend owlv2 needs model_path: a folder from `python -m services.detection.export owlv2`"
            )
        if self.backend == "yolo-world" and (self.model_path is None or self.vocabulary_path is None):
            raise ValueError(
                "backend yolo-world needs model_path, a graph from `python -m services.detection.yolo_world`, and "
                "vocabulary_path, the words it was made with"
            )
        if "{}" not in self.vocabulary_template:
            raise ValueError("vocabulary_template needs {} where the word stands")
        return self
