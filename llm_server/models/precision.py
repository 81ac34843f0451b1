"""The number types a model is held in, and which of its linear layers each quantises.

`nf4` quantises every linear layer of the decoder, `Plora_main` with it, in 4-bit NormalFloat with doubly quantised
scales (QLoRA, section 3). The published "4 bit" (`reference-4bit`) names so many layers to skip that the 7 B of
`Plora_main` stay in 16 bits; only the low-rank pairs shrink.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import torch
from torch import nn

from llm_server.models.dimensions import Kind

if TYPE_CHECKING:
    from llm_server.models.vision_language import VisionLanguageModel

PrecisionName: TypeAlias = Literal["fp32", "bf16", "fp16", "int8", "nf4", "reference-4bit"]
Quantisation: TypeAlias = Literal["int8", "nf4"]

#: Parts of names that the published loaders hand to bitsandbytes as `llm_int8_skip_modules`.
PUBLISHED_SKIPS: Final[dict[Kind, tuple[str, ...]]] = {
    "moai": ("vision_tower", "vision_proj", "Plora_main", "moai", "output"),
    "collavo": (
        "vision_tower",
        "vision_proj",
        "vision_proj_for_seg",
        "Plora_main",
        "Plora_seg_A",
        "Plora_seg_B",
        "output",
    ),
}
_OURS: Final = ("vision_tower", "vision_proj", "moai", "mixer", "output")


@dataclass(frozen=True)
class Precision:
    """``dtype`` of what is not quantised and of the arithmetic; how the rest is quantised; skips per kind of model."""

    name: PrecisionName
    dtype: torch.dtype
    quantisation: Quantisation | None = None
    skips: Callable[[Kind], tuple[str, ...]] = lambda kind: _OURS

    def quantises(self, kind: Kind, name: str, module: nn.Module) -> bool:
        """Whether a module of a model is one of the linear layers that are quantised."""
        return (
            self.quantisation is not None
            and isinstance(module, nn.Linear)
            and not any(skip in name for skip in self.skips(kind))
        )


def precision(name: str, compute_dtype: torch.dtype = torch.bfloat16) -> Precision:
    """A precision by name; ``compute_dtype`` is that of the quantised ones (float16 as published).

    Raises:
        ValueError: there is no such precision.
    """
    match name:
        case "fp32":
            return Precision("fp32", torch.float32)
        case "bf16":
            return Precision("bf16", torch.bfloat16)
        case "fp16":
            return Precision("fp16", torch.float16)
        case "int8":
            return Precision("int8", compute_dtype, "int8")
        case "nf4":
            return Precision("nf4", compute_dtype, "nf4")
        case "reference-4bit":
            # A mixer's modules are "moai_..." in the published tree; here they are "mixer.".
            return Precision(
                "reference-4bit", compute_dtype, "nf4", lambda kind: (*PUBLISHED_SKIPS[kind], "mixer")
            )
        case _:
            raise ValueError(f"there is no precision {name!r}")


def quantised_names(model: VisionLanguageModel, chosen: Precision) -> list[str]:
    """Names of the linear layers that ``chosen`` quantises."""
    kind = model.dimensions.kind
    return [name for name, module in model.named_modules() if chosen.quantises(kind, name, module)]
