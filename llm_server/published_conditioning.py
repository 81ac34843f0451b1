"""What CoLLaVO and MoAI read a prompt with, as it waits for its turn: pictures and maps as integers, no tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llm_server.conditioning import Conditioning
from llm_server.models.gates import GateOverrides, Side, Triple


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PictureConditioning(Conditioning):
    """A picture: ``pixels`` (3, side, side) uint8 RGB, squashed; ``picture`` is their digest."""

    pixels: NDArray[np.uint8]
    picture: bytes


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CollavoConditioning(PictureConditioning):
    """A picture and its crayon maps: ``classes`` and ``numbers`` (N,) uint8, row by row, 0 unknown.

    ``semantic`` and ``numbering`` off leave a map out; without both nothing enters the model's layers.
    """

    classes: NDArray[np.uint8]
    numbers: NDArray[np.uint8]
    semantic: bool = True
    numbering: bool = True
    unknown_beyond: bool = True


@dataclass(slots=True, eq=False)
class GateRecord:
    """How the experts were weighed: filled by the runner when it reads the prompt, before the first token."""

    means: dict[tuple[int, Side], Triple] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MoaiConditioning(PictureConditioning):
    """A picture and its auxiliary information.

    Attributes:
        words: ids of the auxiliary text, BOS first.
        segments: (side, side) int32 segment ids of the colour map; None: there are no tokens of it.
        auxiliary: digest of ``words`` and ``segments``.
        overrides: what the request changes about the gates.
        gate_dtype: type of the gates' softmax.
        record: where the gates' weights are to go, if they are asked for.
    """

    words: tuple[int, ...]
    segments: NDArray[np.int32] | None
    auxiliary: bytes
    overrides: GateOverrides | None = None
    gate_dtype: Literal["float16", "float32"] = "float32"
    record: GateRecord | None = None
