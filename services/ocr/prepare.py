"""Offline touch-up of the published checkpoints, done once and cached beside them.

Weight decay has left the dead channels of PP-OCRv6 with subnormal weights: of the 295k weights of each of the
two widest 1x1 convolutions of the detector 70k and 185k are below 1.2e-38. A CPU takes a hundred times longer
over such numbers, and these two layers took two thirds of all the detector's time. Set to zero, the output is the
same to the last bit and the detector about three times as fast.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from services.ocr.onnx_file import float32_weights, read_metadata
from serving.weights import WeightStore, WeightsUnavailableError

BLANK_TOKEN = ""
_CHARACTERS = "character"


def flush_subnormals(model: bytes) -> bytes:
    """The same ONNX file, byte for byte, with every subnormal float32 weight set to zero.

    Raises OnnxFormatError when `model` is not an ONNX file.
    """
    flushed = bytearray(model)
    smallest = np.finfo(np.float32).tiny
    for start, end in float32_weights(model):
        weights = np.frombuffer(flushed, dtype="<f4", count=(end - start) // 4, offset=start)
        weights[np.abs(weights) < smallest] = 0.0
    return bytes(flushed)


def prepared_model(store: WeightStore, artifact: str) -> Path:
    """Fetch a checkpoint and give the touched-up file, building it on first use.

    Raises WeightsUnavailableError when no source has the checkpoint.
    """
    source = store.fetch(artifact)
    return store.derive(
        f"{artifact}-flushed.onnx",
        key=f"{store.licence(artifact).sha256}:flush_subnormals:1",
        build=lambda target: _write(target, flush_subnormals(source.read_bytes())),
    )


def prepared_file(store: WeightStore, path: Path) -> Path:
    """The same for a checkpoint that is at hand. Raises WeightsUnavailableError when there is no such file,
    OnnxFormatError when it is no ONNX.
    """
    if not path.is_file():
        raise WeightsUnavailableError(path.name, f"there is no file {path}")
    return store.derive(
        f"{path.stem}-flushed.onnx",
        key=f"{file_digest(path)}:flush_subnormals:1",
        build=lambda target: _write(target, flush_subnormals(path.read_bytes())),
    )


def file_digest(path: Path) -> str:
    """SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_charset(model: Path, listed: Path | None = None) -> tuple[str, ...]:
    """The classes of the recogniser in order: blank, its characters, a space.

    The characters are those of `listed` (UTF-8, one a line), or without it of the model's metadata. Raises ValueError
    when there are none.
    """
    if listed is not None:
        characters = listed.read_text("utf-8").rstrip("\n")
    else:
        characters = read_metadata(model.read_bytes()).get(_CHARACTERS, "")
    if not characters:
        raise ValueError(f"{(listed or model).name} carries no character list")
    return (BLANK_TOKEN, *characters.split("\n"), " ")


def _write(target: Path, data: bytes) -> None:
    target.write_bytes(data)
