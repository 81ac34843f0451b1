"""What the scene-graph process can be told from its environment (prefix `SCENE_GRAPH_`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from serving.engine.settings import EngineSettings, default_batch
from serving.settings import Port


class SceneGraphSettings(EngineSettings):
    """`EngineSettings` and what the expert itself needs; `SCENE_GRAPH_THREADS=1`, and so on."""

    model_config = SettingsConfigDict(
        env_prefix="SCENE_GRAPH_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    port: Port = Field(50063, description="gRPC port; 0 picks a free one")
    metrics_port: Port = Field(51063, description="Prometheus HTTP port; 0 serves no metrics")

    workers: int = Field(2, ge=1, description="threads that decode, resize, draw masks and apply the rules")
    max_batch: int = Field(
        default_factory=default_batch,
        ge=1,
        le=64,
        description="the most images that share an inference; unset: 2 on a CPU (more cost memory, not time), else 8",
    )
    max_queue: int = Field(64, ge=1, description="images that wait; one more is refused with QUEUE_FULL")

    backend: Literal["geometric", "psgtr", "psgtr+geometric"] = Field(
        "geometric", description="what relates: the rules, the trained network, or both fused"
    )
    model_path: Path | None = Field(
        None, description="the exported graph (psgtr); the rules fetch their own network"
    )
    model_licence: str = Field(
        "LicenseRef-unstated", description="licence of the weights in `model_path`, as Describe reports it"
    )
    longer_side: int = Field(1333, ge=32, description="the most pixels of the input's longer side (psgtr)")
    shorter_side: int = Field(800, ge=32, description="the most pixels of the input's shorter side (psgtr)")

    object_threshold: float | None = Field(
        None, ge=0, le=1, description="least score of an object; unset: the backend's own"
    )
    relation_threshold: float | None = Field(
        None, ge=0, le=1, description="least score of a relation; unset: the backend's own"
    )
    max_relations: int = Field(100, ge=1, le=100, description="the most relations of one image")

    @model_validator(mode="after")
    def _a_graph_for_psgtr(self) -> Self:
        if self.backend != "geometric" and self.model_path is None:
            raise ValueError(
                f"backend {self.backend} needs model_path: a graph from `python -m services.scene_graph.export psgtr`"
            )
        return self
