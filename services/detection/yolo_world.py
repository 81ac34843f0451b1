"""YOLO-World with a vocabulary of yours built in: a checkpoint and a list of words into the ONNX graph. Offline only.

    python -m services.detection.yolo_world CHECKPOINT.pt WORDS.txt OUT.onnx
    python -m services.detection.yolo_world CHECKPOINT.pt WORDS.txt OUT.onnx --embeddings WORDS.npy
    python -m services.detection.yolo_world random:yolov8s-worldv2 WORDS.txt OUT.onnx --embeddings WORDS.npy

The fast alternative to OWLv2 where the words are known beforehand: ultralytics' exporter (AGPL-3.0, the `export` extra)
writes the words' embeddings into the graph, which is then a YOLO like any other, with your words for classes:
`DETECTION_BACKEND=yolo-world`, `DETECTION_MODEL_PATH=OUT.onnx`, `DETECTION_VOCABULARY_PATH=WORDS.txt`.

Embeddings, a row of 512 a word, come from the CLIP that ultralytics asks for (its own fork, installed by you), or from
a file. A checkpoint is a pickle: what it refers to is held against a list before it is opened.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.detection.owlv2.words import read_words
from serving.weights import WeightsUnavailableError

OPSET = 20
_RANDOM = "random:"

_ALLOWED_GLOBALS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "torch.nn.modules.activation": "SiLU",
        "torch.nn.modules.batchnorm": "BatchNorm2d",
        "torch.nn.modules.container": "ModuleList Sequential",
        "torch.nn.modules.conv": "Conv2d",
        "torch.nn.modules.linear": "Identity Linear",
        "torch.nn.modules.normalization": "LayerNorm",
        "torch.nn.modules.pooling": "AdaptiveMaxPool2d MaxPool2d",
        "torch.nn.modules.upsampling": "Upsample",
        "ultralytics.nn.modules.block": (
            "BNContrastiveHead Bottleneck C2f C2fAttn ContrastiveHead DFL ImagePoolingAttn MaxSigmoidAttnBlock SPPF"
        ),
        "ultralytics.nn.modules.conv": "Concat Conv DWConv",
        "ultralytics.nn.modules.head": "WorldDetect",
        "ultralytics.nn.tasks": "WorldModel",
    }.items()
    for name in names.split()
)


def load_world(source: str, names: tuple[str, ...], embeddings: NDArray[np.float32] | None) -> Any:
    """The `YOLOWorld` of `source` with `names` for classes.

    `source`: a checkpoint file, or `random:` and the name of one of ultralytics' configurations. `embeddings`:
    (len(names), 512), any length; None has ultralytics compute them, which needs its CLIP.

    Raises WeightsUnavailableError when there is no checkpoint, it refers to what no YOLO-World is made of, or CLIP is
    missing; ValueError when names and embeddings disagree.
    """
    import torch
    from ultralytics.models.yolo.model import YOLOWorld

    if not names or (embeddings is not None and (embeddings.ndim != 2 or len(embeddings) != len(names))):
        raise ValueError(
            f"{len(names)} words and embeddings of {None if embeddings is None else embeddings.shape}"
        )
    if source.startswith(_RANDOM):
        world = YOLOWorld(source.removeprefix(_RANDOM) + ".yaml")
    else:
        _inspect(Path(source))
        world = YOLOWorld(source)
    if embeddings is None:
        try:
            world.set_classes(list(names))
        except ImportError as error:
            raise WeightsUnavailableError(
                source, f"the words cannot be read: {error}. Install ultralytics' CLIP, or give --embeddings"
            ) from error
        return world
    network: Any = world.model
    vectors = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32))[None]
    network.txt_feats = vectors / vectors.norm(dim=-1, keepdim=True)
    network.model[-1].nc = len(names)
    network.names = dict(enumerate(names))
    return world


def write_onnx(world: Any, out: Path) -> Path:
    """Write a loaded network to `out`: free batch, height and width, float32, raw predictions as `serving/yolo.py`."""
    home = Path.cwd()
    out = out.absolute()
    with TemporaryDirectory() as folder:
        # The exporter writes into the working folder.
        os.chdir(folder)
        try:
            written = world.export(format="onnx", dynamic=True, opset=OPSET, simplify=True, device="cpu")
            os.replace(written, arriving := out.with_name(f".{out.name}.part"))
        finally:
            os.chdir(home)
    os.replace(arriving, out)
    return out


def _inspect(checkpoint: Path) -> None:
    from torch.serialization import get_unsafe_globals_in_checkpoint

    if not checkpoint.is_file():
        raise WeightsUnavailableError("yolo-world", f"there is no checkpoint {checkpoint}")
    if unexpected := sorted(set(get_unsafe_globals_in_checkpoint(str(checkpoint))) - _ALLOWED_GLOBALS):
        raise WeightsUnavailableError(
            "yolo-world", f"{checkpoint.name} refers to {', '.join(unexpected)}; it is not opened"
        )


def main(arguments: list[str]) -> int:
    """Export what `arguments` ask for and print where it is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.detection.yolo_world", description=__doc__)
    parser.add_argument("source", help="checkpoint file, or random:yolov8s-worldv2")
    parser.add_argument("words", type=Path, help="one name a line")
    parser.add_argument("out", type=Path)
    parser.add_argument("--embeddings", type=Path, help="a numpy file, (words, 512)")
    chosen = parser.parse_args(arguments)
    with TemporaryDirectory() as scratch:
        # No settings file in the home folder, no calls home, no packages installed behind the user's back.
        os.environ.update(YOLO_CONFIG_DIR=scratch, YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
        try:
            embeddings = None if chosen.embeddings is None else np.load(chosen.embeddings)
            print(write_onnx(load_world(chosen.source, read_words(chosen.words), embeddings), chosen.out))
        except (WeightsUnavailableError, ValueError, OSError) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
