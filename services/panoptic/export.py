"""Checkpoints of the segmenters as the ONNX graphs the service runs. Offline; torch is loaded only to convert.

    python -m services.panoptic.export                                # YOLO26n-seg, into the cache
    python -m services.panoptic.export mask2former SOURCE OUT         # a hub name or a local folder
    python -m services.panoptic.export mask2former random:tiny OUT    # random weights; or swin-base, swin-large

The YOLO graph is cached, and the service asks for it at start: running this by hand only moves the wait to a better
moment. A Mask2Former graph is a file of yours: `PANOPTIC_BACKEND=mask2former`, `PANOPTIC_MODEL_PATH=OUT`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from serving.weights import WeightStore, WeightsUnavailableError
from serving.weights.yolo_export import exported_onnx

if TYPE_CHECKING:
    from transformers import Mask2FormerConfig

ARTIFACT = "yolo26n-seg"
OPSET = 20
_RANDOM = "random:"


def export(store: WeightStore) -> Path:
    """Where the YOLO graph is. Raises WeightsUnavailableError saying what to do when it cannot be had."""
    return exported_onnx(store, ARTIFACT)


def export_mask2former(
    source: str | Path | Mask2FormerConfig,
    out: Path,
    *,
    opset: int = OPSET,
    input_size: tuple[int, int] | None = None,
    seed: int = 0,
) -> Path:
    """Write a Mask2Former network to `out` as ONNX, float32, and return `out`; nothing is left there if it fails.

    `source`: a hub checkpoint, a local folder with one, or `random:tiny`, `random:swin-base`, `random:swin-large` or a
    configuration for random weights drawn from `seed`. `input_size`: (height, width), fixed in the graph; unset 384 x
    384, or what a configuration says. The batch is free.

    Input `pixel_values` (batch, 3, H, W); outputs `class_queries_logits` (batch, Q, classes + 1) and
    `masks_queries_logits` (batch, Q, H / 4, W / 4).

    Raises WeightsUnavailableError when the checkpoint cannot be had or is another network's; ValueError for an
    unknown `random:` size.
    """
    from services.panoptic.mask2former.network import swin_base_config, swin_large_config, tiny_config
    from services.panoptic.mask2former.onnx_export import write_onnx

    if isinstance(source, str) and source.startswith(_RANDOM):
        sizes = {"tiny": tiny_config, "swin-base": swin_base_config, "swin-large": swin_large_config}
        size = source.removeprefix(_RANDOM)
        if size not in sizes:
            raise ValueError(f"no random network of size {size!r}: {', '.join(sizes)}")
        source = sizes[size]()
    return write_onnx(source, out, opset=opset, input_size=input_size, seed=seed)


def main(arguments: list[str]) -> int:
    """Export what `arguments` ask for and print where it is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.panoptic.export", description=__doc__)
    models = parser.add_subparsers(dest="model")
    mask2former = models.add_parser("mask2former", help="a Mask2Former checkpoint")
    mask2former.add_argument("source", help="hub name, folder, or random:tiny|swin-base|swin-large")
    mask2former.add_argument("out", type=Path)
    mask2former.add_argument("--opset", type=int, default=OPSET)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.model == "mask2former":
            print(export_mask2former(chosen.source, chosen.out, opset=chosen.opset))
        else:
            print(export(WeightStore()))
    except (WeightsUnavailableError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
