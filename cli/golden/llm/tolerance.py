"""How far a tensor may be from its golden one: the figures that the golden set's README recommends.

They stand about an order of magnitude above what a float64 run of the same code moves, and below what a mistake does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llm_server.models.dimensions import Kind

_EXACT = frozenset(
    (
        "input_ids",
        "attention_mask",
        "im_mask",
        "lang_mask",
        "crayon_class",
        "crayon_ordinal",
        "aux_ids",
        "aux_attention_mask",
        "segmentation",
        "merged_attention_mask",
        "merged_position_ids",
        "greedy_ids",
        "beam3_ids",
    )
)
#: A resize may round a grey level differently on another version of the libraries.
_GREY_LEVEL = 1.0
_FEATURES = frozenset(
    (
        "clip_features",
        "image_features",
        "map_clip_features",
        "map_features",
        "seg_features",
        "aux_embeds",
        "merged_inputs_embeds",
    )
)
_AFTER_MIXER = 2e-3
_LANGUAGE = 2e-4


def is_logits(name: str) -> bool:
    """Whether a tensor holds float32 logits of the output head."""
    return "logits" in name and not name.startswith("mixer")


def tolerance(kind: Kind, name: str, mixers: Sequence[int]) -> float:
    """Largest absolute difference allowed for the tensor `name` of a case, in float32.

    Raises:
        KeyError: nothing is known about such a tensor.
    """
    if name in _EXACT:
        return 0.0
    if name == "image":
        return _GREY_LEVEL
    if name in ("pixel_values", "map_pixel_values", "seg_embeds"):
        return 1e-6
    if name in _FEATURES or name.startswith("layer0."):
        return 3e-5
    if name in ("compressed_aux", "beam3_scores"):
        return 1e-4
    if match := re.fullmatch(r"hidden\.(\d+)", name):
        return _states(int(match[1]), mixers)
    if match := re.fullmatch(r"mixer(\d+)\.(\w+)", name):
        return _mixer(match[2], first=int(match[1]) == min(mixers, default=-1))
    if name == "step2_logits_last":
        # One step of bfloat16 in a gate is eight of float16.
        return 5e-3
    if name == "final_norm" or is_logits(name):
        return _LANGUAGE if kind == "collavo" else _AFTER_MIXER
    raise KeyError(name)


def layer_tolerances(layers: int, mixers: Sequence[int]) -> list[float]:
    """Of each decoder layer's output."""
    return [_states(layer, mixers) for layer in range(layers)]


def fp16_tolerance(name: str) -> float:
    """As `tolerance`, for a float16 run: pixels and tables are exact, logits can only be compared loosely."""
    return 0.3 if name == "logits_last" else 0.0


def _states(layer: int, mixers: Sequence[int]) -> float:
    return _LANGUAGE if layer < min(mixers, default=layer + 1) else _AFTER_MIXER


def _mixer(part: str, *, first: bool) -> float:
    """The first mixer's inputs are near their golden values; what comes behind one is less so."""
    if part.startswith("gate_logits"):
        return 1e-4 if first else _AFTER_MIXER
    if part.startswith("gate_"):
        return 5e-4 if first else _AFTER_MIXER
    if part == "pre":
        return _LANGUAGE if first else _AFTER_MIXER
    return _AFTER_MIXER
