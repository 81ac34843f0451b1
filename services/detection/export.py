"""Checkpoints of the detectors as the ONNX graphs the service runs. Offline; torch is loaded only to convert.

    python -m services.detection.export                               # YOLO26n, into the cache
    python -m services.detection.export owlv2 SOURCE OUT              # a hub name or a local folder
    python -m services.detection.export owlv2 random:tiny OUT         # random weights; or random:base

The YOLO graph is cached, and the service asks for it at start: running this by hand only moves the wait to a better
moment. An OWLv2 export is a folder of yours: `DETECTION_BACKEND=owlv2`, `DETECTION_MODEL_PATH=OUT`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from serving.weights import WeightStore, WeightsUnavailableError
from serving.weights.yolo_export import exported_onnx

if TYPE_CHECKING:
    from transformers import Owlv2Config

ARTIFACT = "yolo26n"
OPSET = 20
_RANDOM = "random:"


def export(store: WeightStore) -> Path:
    """Where the YOLO graph is. Raises WeightsUnavailableError saying what to do when it cannot be had."""
    return exported_onnx(store, ARTIFACT)


def export_owlv2(source: str | Path | Owlv2Config, out: Path, *, opset: int = OPSET, seed: int = 0) -> Path:
    """Write an OWLv2 network to the folder `out`, float32, and return `out`: both halves as ONNX, the tokenizer, and a
    sheet that says what they are (`owlv2/bundle.py`). What was in `out` is replaced; if it fails, kept.

    `source`: a hub checkpoint, a local folder with one, or `random:tiny`, `random:base` or a configuration for random
    weights drawn from `seed`. The picture's size is the checkpoint's, the batch is free.

    Raises WeightsUnavailableError when the checkpoint cannot be had or is another network's; ValueError for an unknown
    `random:` size.
    """
    from services.detection.owlv2.network import base_config, tiny_config
    from services.detection.owlv2.onnx_export import write_bundle

    if isinstance(source, str) and source.startswith(_RANDOM):
        sizes = {"tiny": tiny_config, "base": base_config}
        size = source.removeprefix(_RANDOM)
        if size not in sizes:
            raise ValueError(f"no random network of size {size!r}: {', '.join(sizes)}")
        source = sizes[size]()
    return write_bundle(source, out, opset=opset, seed=seed)


def main(arguments: list[str]) -> int:
    """Export what `arguments` ask for and print where it is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.detection.export", description=__doc__)
    models = parser.add_subparsers(dest="model")
    owlv2 = models.add_parser("owlv2", help="an OWLv2 checkpoint")
    owlv2.add_argument("source", help="hub name, folder, or random:tiny|base")
    owlv2.add_argument("out", type=Path)
    owlv2.add_argument("--opset", type=int, default=OPSET)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.model == "owlv2":
            print(export_owlv2(chosen.source, chosen.out, opset=chosen.opset))
        else:
            print(export(WeightStore()))
    except (WeightsUnavailableError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
