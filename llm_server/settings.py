"""What the language model server can be told from its environment (`LLM_SERVER_...`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from serving.image import ImageLimits
from serving.settings import Port, ServerSettings

Precision = Literal["nf4", "nf4-dequantised", "bf16", "fp32"]
CheckpointPrecision = Literal["fp32", "bf16", "fp16", "int8", "nf4", "reference-4bit"]
Count = Annotated[int, Field(ge=1)]


class LlmServerSettings(ServerSettings):
    """The model, its adapters, and how many answers are written at a time."""

    model_config = SettingsConfigDict(env_prefix="LLM_SERVER_")

    port: Port = Field(50065, description="gRPC port; 0 picks a free one")
    metrics_port: Port = Field(51065, description="Prometheus HTTP port; 0 serves no metrics")

    backend: Literal["torch", "vllm"] = Field(
        "torch",
        description="what computes the default model. vllm wants the package vllm and a GPU that it supports, and"
        " offers no crayon prompt, beams, output forms, embeddings or change of adapters",
    )
    model: Literal["polysight-smol", "collavo", "moai"] = Field(
        "polysight-smol", description="what answers; the last two need a checkpoint"
    )
    checkpoint: Path | None = Field(
        None,
        description="folder of a CoLLaVO or MoAI in the released layout: config.json, safetensors, tokenizer.model",
    )
    checkpoint_precision: CheckpointPrecision = Field(
        "bf16",
        description="of a checkpoint's weights; reference-4bit leaves in 16 bits what the published code does",
    )
    checkpoint_licence: str = Field("NOASSERTION", description="SPDX identifier, told by ListModels")
    profile: Literal["serving", "reference"] = Field(
        "serving", description="whose habits a checkpoint follows when a request does not say"
    )
    feature_cache_mebibytes: Annotated[int, Field(ge=0)] = Field(
        256,
        description="features of pictures and auxiliary tokens of a checkpoint kept for further questions; a picture"
        " of the released models takes 10 in 16 bits",
    )
    device: str | None = Field(None, description="of a checkpoint, for torch; unset: a GPU if there is one")

    precision: Precision = Field(
        "nf4-dequantised",
        description="of the default model's base; adapters stay in 32 bits. nf4-dequantised has the values of nf4,"
        " bit for bit, unpacked to bfloat16: four times the memory, half the time on a CPU",
    )
    adapters_dir: Path = Field(
        Path(__file__).parent / "adapters",
        description="folder with one folder per adapter, as peft saves them",
    )
    adapter_store: Path | None = Field(
        None,
        description="folder that LoadAdapter takes adapters from, one folder each; unset: adapters_dir",
    )
    admin: bool = Field(
        True, description="whether AdapterAdminService is served: who can call it changes what all others get"
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="of torch inside one operation; 0: as many as cores"
    )

    kv_tokens: Annotated[int, Field(ge=256)] = Field(
        16384,
        description="positions of keys and values in all, for running answers and remembered prefixes; the default"
        " model takes 23 KB for each. Fewer than the context has positions shorten the context",
    )
    prefix_reuse: bool = Field(
        True, description="whether what was read for one request is used by others that begin the same"
    )
    max_sequences: Count = Field(
        8,
        description="answers written at a time, in one batch. 1 makes an answer independent, bit for bit, of what else"
        " is asked meanwhile",
    )
    max_queue: Annotated[int, Field(ge=0)] = Field(
        64, description="requests that wait; more are refused at once"
    )
    prefill_chunk: Count = Field(
        256, description="tokens of a prompt that are read between two tokens of the others"
    )
    context_length: Annotated[int, Field(ge=128)] | None = Field(
        None, description="positions for prompt and answer together; the model's own if unset, never more"
    )
    answer_reserve: Count = Field(
        64, description="positions of the context that a prompt must leave for the answer"
    )
    default_max_new_tokens: Count = Field(256, description="length of an answer when the request sets none")

    max_image_bytes: Count = Field(ImageLimits().max_bytes, description="largest image file")
    max_image_pixels: Count = Field(ImageLimits().max_pixels, description="most pixels an image may declare")
    max_image_side: Count = Field(ImageLimits().max_side, description="most pixels along one side")

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if self.model != "polysight-smol" and self.checkpoint is None:
            raise ValueError(f"{self.model} needs LLM_SERVER_CHECKPOINT")
        if self.model != "polysight-smol" and self.backend != "torch":
            raise ValueError(
                f"{self.model} has crayon prompts or mixers, which {self.backend} cannot compute"
            )
        return self

    @property
    def image_limits(self) -> ImageLimits:
        """The three image limits together."""
        return ImageLimits(self.max_image_bytes, self.max_image_pixels, self.max_image_side)
