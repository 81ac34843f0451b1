"""Checkpoints of the scene-graph networks as the ONNX graphs the service runs. Offline; torch is loaded to convert.

    python -m services.scene_graph.export                        # YOLO26n-seg, for `geometric`, into the cache
    python -m services.scene_graph.export psgtr SOURCE OUT       # OpenPSG's .pth, or .safetensors of the same names
    python -m services.scene_graph.export psgtr random:tiny OUT  # random weights; or random:r50

A PSGTR graph is a file of yours: `SCENE_GRAPH_BACKEND=psgtr`, `SCENE_GRAPH_MODEL_PATH=OUT`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from serving.weights import WeightStore, WeightsUnavailableError
from serving.weights.yolo_export import exported_onnx

ARTIFACT = "yolo26n-seg"
OPSET = 20
_RANDOM = "random:"


def export_psgtr(
    source: str | Path, out: Path, *, sha256: str | None = None, opset: int = OPSET, seed: int = 0
) -> Path:
    """Write a PSGTR network to `out` as ONNX, float32, and return `out`; nothing is left there if it fails.

    `source`: a checkpoint with the published names, which must hash to `sha256` if that is given; or `random:tiny` or
    `random:r50` for random weights drawn from `seed`. Batch, height and width are free, sides multiples of 32.

    Inputs `pixel_values` (batch, 3, height, width) and `pixel_mask` (batch, height, width; 0 for padding), float32.
    Outputs as `services.scene_graph.psgtr.network.Triplets`, under the same names.

    Raises WeightsUnavailableError when the checkpoint cannot be had, is not safe to read or is another network's;
    ValueError for an unknown `random:` size.
    """
    from services.scene_graph.psgtr.checkpoint import load_checkpoint
    from services.scene_graph.psgtr.network import r50_config, random_network, tiny_config
    from services.scene_graph.psgtr.onnx_export import write_onnx

    if isinstance(source, str) and source.startswith(_RANDOM):
        sizes = {"tiny": tiny_config, "r50": r50_config}
        size = source.removeprefix(_RANDOM)
        if size not in sizes:
            raise ValueError(f"no random network of size {size!r}: {', '.join(sizes)}")
        network = random_network(sizes[size](), seed=seed)
    else:
        network = load_checkpoint(Path(source), sha256=sha256)
    return write_onnx(network, out, opset=opset)


def main(arguments: list[str]) -> int:
    """Export what `arguments` ask for and print where it is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.scene_graph.export", description=__doc__)
    models = parser.add_subparsers(dest="model")
    psgtr = models.add_parser("psgtr", help="a PSGTR checkpoint")
    psgtr.add_argument("source", help=".pth or .safetensors of OpenPSG's names, or random:tiny|r50")
    psgtr.add_argument("out", type=Path)
    psgtr.add_argument("--sha256", help="what the checkpoint must hash to")
    psgtr.add_argument("--opset", type=int, default=OPSET)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.model == "psgtr":
            print(export_psgtr(chosen.source, chosen.out, sha256=chosen.sha256, opset=chosen.opset))
        else:
            print(exported_onnx(WeightStore(), ARTIFACT))
    except (WeightsUnavailableError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
