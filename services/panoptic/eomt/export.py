"""EoMT checkpoints as the ONNX graphs the service runs. Offline; torch is loaded only to convert.

    python -m services.panoptic.eomt.export SOURCE OUT         # a hub name or a local folder
    python -m services.panoptic.eomt.export random:tiny OUT    # random weights; or random:large

A graph is a file of yours: `PANOPTIC_BACKEND=eomt`, `PANOPTIC_MODEL_PATH=OUT`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from serving.weights import WeightsUnavailableError

if TYPE_CHECKING:
    from transformers import EomtConfig

OPSET = 20
_RANDOM = "random:"


def export_eomt(source: str | Path | EomtConfig, out: Path, *, opset: int = OPSET, seed: int = 0) -> Path:
    """Write an EoMT network to `out` as ONNX, float32, and return `out`; nothing is left there if it fails.

    `source`: a hub checkpoint, a local folder with one, or `random:tiny`, `random:large` or a configuration for random
    weights drawn from `seed`. The square input is what the configuration says, the batch is free.

    Input `pixel_values` (batch, 3, side, side); outputs `class_queries_logits` (batch, Q, classes + 1) and
    `masks_queries_logits` (batch, Q, side / 4, side / 4).

    Raises WeightsUnavailableError when the checkpoint cannot be had, is another network's or half trained; ValueError
    for an unknown `random:` size.
    """
    from services.panoptic.eomt.network import large_config, load_network, tiny_config
    from services.panoptic.eomt.onnx_export import write_onnx

    if isinstance(source, str) and source.startswith(_RANDOM):
        sizes = {"tiny": tiny_config, "large": large_config}
        size = source.removeprefix(_RANDOM)
        if size not in sizes:
            raise ValueError(f"no random network of size {size!r}: {', '.join(sizes)}")
        source = sizes[size]()
    return write_onnx(load_network(source, seed=seed), out, opset=opset)


def main(arguments: list[str]) -> int:
    """Export what `arguments` ask for and print where it is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.panoptic.eomt.export", description=__doc__)
    parser.add_argument("source", help="hub name, folder, or random:tiny|large")
    parser.add_argument("out", type=Path)
    parser.add_argument("--opset", type=int, default=OPSET)
    chosen = parser.parse_args(arguments)
    try:
        print(export_eomt(chosen.source, chosen.out, opset=chosen.opset))
    except (WeightsUnavailableError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
