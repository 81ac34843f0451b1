"""What the gateway can be told from its environment (`GATEWAY_...`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from serving.image import ImageLimits
from serving.settings import Port, ServerSettings

Address = Annotated[str, Field(min_length=1)]
Duration = Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)]
Form = Literal["polysight", "collavo", "moai"]


class GatewaySettings(ServerSettings):
    """Where the others are, and how long to wait for them. Times are in seconds.

    The addresses have no default: a gateway that does not know its experts stops at start.
    """

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    port: Port = Field(50060, description="gRPC port; 0 picks a free one")
    metrics_port: Port = Field(51060, description="Prometheus HTTP port; 0 serves no metrics")

    panoptic_address: Address = Field(description="of the panoptic expert: host:port or dns:///name:port")
    detection_address: Address = Field(description="of the detection expert")
    scene_graph_address: Address = Field(description="of the scene graph expert")
    ocr_address: Address = Field(description="of the OCR expert")
    llm_server_address: Address = Field(description="of the language model server")

    expert_budget_s: Duration = Field(
        10.0, description="how long to wait for experts when a request does not say"
    )
    reply_reserve_s: Duration = Field(
        0.1, description="of a caller's deadline, what is kept for putting results into words and replying"
    )
    answer_reserve_s: Duration = Field(
        5.0, description="of a caller's deadline, what is kept for the language model (at most half of it)"
    )
    model_info_ttl_s: Duration = Field(
        30.0, description="how long to believe the language model server's list of models"
    )
    model_lookup_s: Duration = Field(2.0, description="how long to wait for that list when none is known yet")
    default_form: Form = Field(
        "polysight", description="how to put results into words when no language model says what it wants"
    )
    crayon_size: Annotated[int, Field(ge=1, le=512)] = Field(
        35, description="rows and columns of crayon maps when no language model says what it wants"
    )

    max_image_bytes: Annotated[int, Field(ge=1)] = Field(
        ImageLimits().max_bytes, description="largest image file"
    )
    max_image_pixels: Annotated[int, Field(ge=1)] = Field(
        ImageLimits().max_pixels, description="most pixels an image may declare"
    )
    max_image_side: Annotated[int, Field(ge=1)] = Field(
        ImageLimits().max_side, description="most pixels along one side of an image"
    )

    @property
    def image_limits(self) -> ImageLimits:
        """What is accepted as an image."""
        return ImageLimits(self.max_image_bytes, self.max_image_pixels, self.max_image_side)

    @property
    def addresses(self) -> dict[str, str]:
        """Of each expert, by its name."""
        return {
            "panoptic": self.panoptic_address,
            "detection": self.detection_address,
            "scene_graph": self.scene_graph_address,
            "ocr": self.ocr_address,
        }
