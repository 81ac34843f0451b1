"""From an EoMT network to the ONNX graph that an engine runs. Offline only: loads torch and transformers."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from services.panoptic.eomt.network import EomtSegmenter, Exported

INPUT = "pixel_values"
OUTPUTS = ("class_queries_logits", "masks_queries_logits")


def write_onnx(network: EomtSegmenter, out: Path, *, opset: int) -> Path:
    """Write `network` to `out`, float32, the batch free, its square input fixed; nothing is left there if it fails."""
    side: Any = network.config.image_size
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch, warnings.catch_warnings():
        # The tracer warns of every size that it takes for fixed: sizes are meant to be, and the batch is tested.
        warnings.simplefilter("ignore")
        part = Path(scratch, out.name)
        with torch.no_grad():
            torch.onnx.export(
                Exported(network).train(False),
                (torch.zeros(2, 3, side, side),),
                str(part),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_axes={name: {0: "batch"} for name in (INPUT, *OUTPUTS)},
                opset_version=opset,
                dynamo=False,
            )
        os.replace(part, out)
    return out
