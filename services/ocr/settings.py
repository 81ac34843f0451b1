"""What the OCR process can be told from its environment (prefix `OCR_`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from serving.engine.settings import EngineSettings
from serving.settings import Port


class OcrSettings(EngineSettings):
    """`EngineSettings` and what the expert itself needs; `OCR_THREADS=1`, `OCR_USE_ANGLE=false`, and so on."""

    model_config = SettingsConfigDict(env_prefix="OCR_", frozen=True, extra="ignore", env_ignore_empty=True)

    port: Port = Field(50064, description="gRPC port; 0 picks a free one")
    metrics_port: Port = Field(51064, description="Prometheus HTTP port; 0 serves no metrics")

    workers: int = Field(2, ge=1, description="threads that decode, resize and order results")
    max_batch: int = Field(
        1,
        ge=1,
        le=64,
        description="images of one size that share a run of detection; on a CPU more cost memory, not time",
    )
    max_queue: int = Field(
        32, ge=1, description="images that wait on their way; one more is refused with QUEUE_FULL"
    )
    max_crops: int = Field(8, ge=1, le=64, description="lines of text that share one run of recognition")

    detector_path: Path | None = Field(
        None, description="PP-OCR detector as ONNX (a server variant, say); unset: PP-OCRv6 small, fetched"
    )
    recognizer_path: Path | None = Field(
        None,
        description="PP-OCR recogniser as ONNX for another script, its characters in its metadata (RapidOCR's are)",
    )
    charset_path: Path | None = Field(
        None, description="the recogniser's characters, one a line, where its metadata does not have them"
    )
    model_licence: str = Field(
        "LicenseRef-unstated", description="licence of weights given by path, as Describe reports it"
    )

    min_confidence: float = Field(0.5, ge=0, le=1, description="least mean character confidence of a line")
    min_region_score: float = Field(0.5, ge=0, le=1, description="least detector score of a text region")
    use_angle: bool = Field(True, description="whether lines that stand on their head are turned")
    min_side: int = Field(736, ge=32, description="smaller images are enlarged to this short side, pixels")
    max_side: int = Field(1280, ge=32, le=4096, description="longest side the detector sees, pixels")
    max_lines: int = Field(400, ge=1, description="text regions of one image that are read, best first")
