"""From a PSGTR network to the ONNX graph that an engine runs. Offline only: loads torch and transformers."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from services.scene_graph.psgtr.network import PsgtrNetwork, Triplets
from services.scene_graph.psgtr.pixels import STRIDE

INPUTS = ("pixel_values", "pixel_mask")
OUTPUTS = Triplets._fields


def write_onnx(network: PsgtrNetwork, out: Path, *, opset: int) -> Path:
    """Write `network` to `out`, float32, batch and both sides free, and return `out`; nothing is left if it fails."""
    # Two pictures of unlike sides, one of them padded, so that nothing of a shape is taken for fixed.
    sides = (3 * STRIDE, 2 * STRIDE)
    pixels, mask = torch.zeros(2, 3, *sides), torch.ones(2, *sides)
    mask[1, -STRIDE:] = 0
    axes = {
        "pixel_values": {0: "batch", 2: "height", 3: "width"},
        "pixel_mask": {0: "batch", 1: "height", 2: "width"},
    }
    for name in OUTPUTS:
        axes[name] = {0: "batch"} | ({2: "mask_height", 3: "mask_width"} if name.endswith("masks") else {})
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch, warnings.catch_warnings():
        # The tracer warns of every size that it might take for fixed; the tests run other sizes and batches.
        warnings.simplefilter("ignore")
        part = Path(scratch, out.name)
        with torch.no_grad():
            torch.onnx.export(
                network,
                (pixels, mask),
                str(part),
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                dynamic_axes=axes,
                opset_version=opset,
                dynamo=False,
            )
        os.replace(part, out)
    return out
