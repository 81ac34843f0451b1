"""From a Mask2Former network to the ONNX graph that an engine runs. Offline only: loads torch and transformers."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import Mask2FormerConfig

from services.panoptic.mask2former.network import load_network
from services.panoptic.mask2former.queries import CANVAS

INPUT = "pixel_values"
OUTPUTS = ("class_queries_logits", "masks_queries_logits")


def write_onnx(
    source: str | Path | Mask2FormerConfig,
    out: Path,
    *,
    opset: int,
    input_size: tuple[int, int] | None,
    seed: int,
) -> Path:
    """As `services.panoptic.export.export_mask2former`, which says what the arguments are."""
    network = load_network(source, seed=seed)
    if input_size is None:
        input_size = _trained_at(source) if isinstance(source, Mask2FormerConfig) else CANVAS
    example = torch.zeros(2, 3, *input_size)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch, warnings.catch_warnings():
        # The tracer warns of every size that it takes for fixed: sizes are meant to be, and the batch is tested.
        warnings.simplefilter("ignore")
        part = Path(scratch, out.name)
        with torch.no_grad():
            torch.onnx.export(
                network,
                (example,),
                str(part),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_axes={name: {0: "batch"} for name in (INPUT, *OUTPUTS)},
                opset_version=opset,
                dynamo=False,
            )
        os.replace(part, out)
    return out


def _trained_at(config: Mask2FormerConfig) -> tuple[int, int]:
    side = getattr(config.backbone_config, "image_size", None)
    return (side, side) if isinstance(side, int) else CANVAS
