"""Reads a model's dimensions from a checkpoint folder: config.json, the shapes of the tensors, and dims.json if any.

The released folders have no dims.json; what neither config nor shapes tell is then that of the released models: CLIP
heads are 64 wide, compressor and mixers have 4 heads, low-rank branches have scale 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llm_server.models.dimensions import (
    CompressorDimensions,
    CrayonDimensions,
    LanguageDimensions,
    MixerDimensions,
    ModelDimensions,
    VisionDimensions,
)

Shapes = Mapping[str, Sequence[int]]

_TOWER: Final = "vit.vision_tower.vision_model"
_WQKV: Final = "model.layers.0.attention.wqkv"
_CLIP_HEAD_WIDTH: Final = 64
_HEADS: Final = 4


class CheckpointError(ValueError):
    """A folder is not a checkpoint of a model of this kind."""


def checkpoint_dimensions(folder: Path, shapes: Shapes) -> ModelDimensions:
    """Dimensions of the checkpoint in ``folder``, whose tensors have ``shapes``.

    Raises:
        CheckpointError: config.json is missing or lacks a field, or a tensor that a dimension is read from is missing.
    """
    config, extra = _json(folder / "config.json"), _json(folder / "dims.json", optional=True)
    collavo, moai = "seg_prompt_embed.weight" in shapes, "moai_compressor.latents" in shapes
    if collavo == moai:
        raise CheckpointError(
            f"{folder} is neither CoLLaVO's nor MoAI's: it has no crayon table and no compressor"
        )
    try:
        language = _language(config, extra, shapes)
        vision = _vision(config, extra, shapes)
        if collavo:
            return ModelDimensions("collavo", language, vision, crayon=_crayon(extra, shapes))
        return ModelDimensions(
            "moai", language, vision, compressor=_compressor(extra, shapes), mixer=_mixer(extra, shapes)
        )
    except KeyError as error:
        raise CheckpointError(f"{folder} does not tell {error}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} tells something impossible: {error}") from error


def _json(path: Path, *, optional: bool = False) -> Mapping[str, Any]:
    if optional and not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def _extra(extra: Mapping[str, Any], *path: str, default: Any) -> Any:
    """A value of dims.json, or ``default`` where it has none."""
    value: Any = extra
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return default
        value = value[name]
    return value


def _language(config: Mapping[str, Any], extra: Mapping[str, Any], shapes: Shapes) -> LanguageDimensions:
    scaling = config.get("rope_scaling") or {}
    if scaling.get("type", "dynamic") != "dynamic" or float(scaling.get("factor", 1.0)) != 1.0:
        raise CheckpointError(
            f"rope scaling {dict(scaling)} is not supported; the released models have none in effect"
        )
    return LanguageDimensions(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        vocabulary=config["vocab_size"],
        lora_rank=shapes[f"{_WQKV}.Plora_A.weight"][0],
        lora_scale=float(_extra(extra, "plora", "scale", default=1.0)),
        rms_eps=float(config["rms_norm_eps"]),
        rope_theta=float(config["rope_theta"]),
        max_positions=config["max_position_embeddings"],
    )


def _vision(config: Mapping[str, Any], extra: Mapping[str, Any], shapes: Shapes) -> VisionDimensions:
    width = shapes[f"{_TOWER}.embeddings.class_embedding"][0]
    heads = _extra(extra, "vision", "clip_num_attention_heads", default=None)
    if heads is None and width % _CLIP_HEAD_WIDTH:
        raise CheckpointError(f"a vision tower of width {width} needs a dims.json that tells its heads")
    return VisionDimensions(
        image_size=config["img_size"],
        patch=shapes[f"{_TOWER}.embeddings.patch_embedding.weight"][-1],
        width=width,
        intermediate=shapes[f"{_TOWER}.encoder.layers.0.mlp.fc1.weight"][0],
        layers=_count(shapes, rf"{re.escape(_TOWER)}\.encoder\.layers\.(\d+)\."),
        heads=width // _CLIP_HEAD_WIDTH if heads is None else heads,
        norm_eps=float(_extra(extra, "vision", "clip_layer_norm_eps", default=1e-5)),
    )


def _crayon(extra: Mapping[str, Any], shapes: Shapes) -> CrayonDimensions:
    return CrayonDimensions(
        classes=shapes["seg_prompt_embed.weight"][0],
        numbers=shapes["seg_num_embed.weight"][0],
        rank=shapes[f"{_WQKV}.Plora_seg_A.weight"][0],
        scale=float(_extra(extra, "crayon", "seg_lora_scale", default=1.0)),
    )


def _compressor(extra: Mapping[str, Any], shapes: Shapes) -> CompressorDimensions:
    inner = shapes["moai_compressor.layers.0.0.to_q.weight"][0]
    heads = _extra(extra, "aux", "compressor", "heads", default=_HEADS)
    return CompressorDimensions(
        latents=shapes["moai_compressor.latents"][0],
        depth=_count(shapes, r"moai_compressor\.layers\.(\d+)\."),
        heads=heads,
        head_width=inner // heads,
        ff=shapes["moai_compressor.layers.0.1.1.weight"][0],
    )


def _mixer(extra: Mapping[str, Any], shapes: Shapes) -> MixerDimensions:
    layers = _indices(shapes, r"model\.layers\.(\d+)\.attention\.moai_")
    if not layers:
        raise KeyError("any mixer")
    return MixerDimensions(
        layers=tuple(layers),
        rank=shapes[f"model.layers.{layers[0]}.attention.moai_SA_img.linear_q.0.weight"][0],
        heads=_extra(extra, "mixer", "heads", default=_HEADS),
    )


def _indices(shapes: Shapes, pattern: str) -> list[int]:
    found = (re.match(pattern, name) for name in shapes)
    return sorted({int(match[1]) for match in found if match})


def _count(shapes: Shapes, pattern: str) -> int:
    return max(_indices(shapes, pattern), default=-1) + 1
