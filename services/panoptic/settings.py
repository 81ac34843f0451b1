"""What the panoptic process can be told from its environment, `PANOPTIC_*`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from serving.engine.settings import EngineSettings, default_batch
from serving.settings import Port


class PanopticSettings(EngineSettings):
    """Besides what every server has: the model's own limits and defaults."""

    model_config = SettingsConfigDict(env_prefix="PANOPTIC_")

    port: Port = Field(50061, description="gRPC port; 0 picks a free one")
    metrics_port: Port = Field(51061, description="Prometheus HTTP port; 0 serves no metrics")
    workers: int = Field(2, ge=1, description="threads that decode, scale and draw masks")
    max_batch: int = Field(
        default_factory=default_batch,
        ge=1,
        description="the most images that share an inference; unset: 2 on a CPU (more cost memory, not time), else 8",
    )
    max_queue: int = Field(64, ge=1, description="waiting images above which a new one is refused")
    score_threshold: float | None = Field(
        None, ge=0, le=1, description="least score where a request sets none; unset: the backend's own"
    )
    mask_threshold: float | None = Field(
        None, ge=0, le=1, description="least probability of a pixel of a mask; unset: the backend's own"
    )
    overlap_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="least share of a mask that must be left when overlaps are resolved; unset: the backend's own",
    )
    max_segments: int = Field(100, ge=1, le=1000, description="the most segments where a request sets none")
    rectangular: bool = Field(
        True, description="keep the picture's ratio; false pads it to a square of 640 (yolo)"
    )
    backend: Literal["yolo", "mask2former", "eomt"] = Field("yolo", description="which network segments")
    model_path: Path | None = Field(
        None, description="the exported graph (mask2former, eomt); yolo fetches its own"
    )
    model_licence: str = Field(
        "LicenseRef-unstated", description="licence of the weights in `model_path`, as Describe reports it"
    )
    fuse_stuff: bool = Field(
        False, description="one segment for all of a kind of stuff (mask2former, eomt; serving)"
    )

    @model_validator(mode="after")
    def _a_graph_of_yours(self) -> Self:
        exporters = {
            "mask2former": "python -m services.panoptic.export mask2former",
            "eomt": "python -m services.panoptic.eomt.export",
        }
        if self.backend in exporters and self.model_path is None:
            raise ValueError(
                f"backend {self.backend} needs model_path: a graph from `{exporters[self.backend]}`"
            )
        return self
