"""What there is to know of a model's shape before any tensor is made: frozen records, no torch.

The two released models stand at the end; those of a checkpoint folder are read by `checkpoint_dimensions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["collavo", "moai"]

MIXER_INTERVAL: Final = 8
"""MoAI puts a mixer into every eighth decoder layer: 7, 15, 23, 31."""


@dataclass(frozen=True)
class LanguageDimensions:
    """InternLM2 with partial LoRA.

    ``vocabulary`` counts the rows of the output head; the embedding has one row more, for the image placeholder.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    lora_rank: int
    lora_scale: float = 1.0
    rms_eps: float = 1e-5
    rope_theta: float = 1e6
    max_positions: int = 32768

    def __post_init__(self) -> None:
        if self.hidden % self.heads or self.heads % self.kv_heads or (self.hidden // self.heads) % 2:
            raise ValueError(
                f"{self.heads} heads over {self.kv_heads} key-value heads do not divide a width of {self.hidden}"
            )

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads

    @property
    def image_id(self) -> int:
        """Token id of the image placeholder: the row behind the vocabulary."""
        return self.vocabulary


@dataclass(frozen=True)
class VisionDimensions:
    """The CLIP tower; pictures are squares of ``image_size`` pixels."""

    image_size: int
    patch: int
    width: int
    intermediate: int
    layers: int
    heads: int
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")

    @property
    def grid(self) -> int:
        """Whole patches along a side."""
        return self.image_size // self.patch

    @property
    def tokens(self) -> int:
        """Image tokens of a picture."""
        return self.grid**2


@dataclass(frozen=True)
class CrayonDimensions:
    """CoLLaVO's two query tables (row 0: unknown) and the rank of its second low-rank branch."""

    classes: int
    numbers: int
    rank: int
    scale: float = 1.0


@dataclass(frozen=True)
class CompressorDimensions:
    """MoAI's resampler; ``ff`` is the hidden width of its feed-forward blocks."""

    latents: int
    depth: int
    heads: int
    head_width: int
    ff: int


@dataclass(frozen=True)
class MixerDimensions:
    """MoAI's mixers: the decoder layers that have one, and the rank and heads of an expert."""

    layers: tuple[int, ...]
    rank: int
    heads: int


@dataclass(frozen=True)
class ModelDimensions:
    """A whole model. ``crayon`` is there for CoLLaVO; ``compressor`` and ``mixer`` are for MoAI."""

    kind: Kind
    language: LanguageDimensions
    vision: VisionDimensions
    crayon: CrayonDimensions | None = None
    compressor: CompressorDimensions | None = None
    mixer: MixerDimensions | None = None

    def __post_init__(self) -> None:
        has = (self.crayon is not None, self.compressor is not None, self.mixer is not None)
        wanted = (True, False, False) if self.kind == "collavo" else (False, True, True)
        if has != wanted:
            raise ValueError(f"{self.kind} cannot have these parts: crayon, compressor, mixer = {has}")


_LANGUAGE: Final = LanguageDimensions(
    hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, vocabulary=92544, lora_rank=256
)
_VISION: Final = VisionDimensions(
    image_size=490, patch=14, width=1024, intermediate=4096, layers=24, heads=16
)

#: The released models (config.json of BK-Lee/CoLLaVO-7B and BK-Lee/MoAI-7B, and their code).
RELEASED: Final[dict[str, ModelDimensions]] = {
    "collavo-7b": ModelDimensions(
        "collavo", _LANGUAGE, _VISION, crayon=CrayonDimensions(classes=134, numbers=21, rank=256)
    ),
    "moai-7b": ModelDimensions(
        "moai",
        _LANGUAGE,
        _VISION,
        compressor=CompressorDimensions(latents=64, depth=4, heads=4, head_width=64, ff=4096),
        mixer=MixerDimensions(
            layers=tuple(range(MIXER_INTERVAL - 1, _LANGUAGE.layers, MIXER_INTERVAL)), rank=64, heads=4
        ),
    ),
}

#: Bytes of all tensors of the released checkpoints, 16 bits a parameter: MoAI's as its index says, CoLLaVO's as
#: its files' sizes say.
RELEASED_BYTES: Final[dict[str, int]] = {"collavo-7b": 18_583_924_736, "moai-7b": 17_737_275_440}
