"""Pictures that scales of eight bits are measured on, each prepared as the expert of the graph prepares it.

A graph of the project's table knows its preparation by its name; for a file of one's own `--prepare` names it. Graphs
that read single lines (`ocr-line`, `ocr-angle`) are calibrated on pictures of single lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.engine.fake import FakeEngine
from serving.engine.graph import ExportedGraph
from serving.engine.precision import read_inputs
from serving.engine.protocol import EngineError, Tensor, TensorSpec
from serving.engine.quantization import Calibration
from serving.errors import PolysightError
from serving.image import decode_image

Picture = NDArray[np.uint8]
Inputs = Mapping[str, Tensor]
Prepare = Callable[[Picture, Sequence[TensorSpec]], Iterator[Inputs]]
"""A picture (H, W, 3) RGB to the inputs of one run each, batch 1."""

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def _mask2former(picture: Picture, inputs: Sequence[TensorSpec]) -> Iterator[Inputs]:
    from services.panoptic.mask2former.pixels import network_input

    (pixels,) = inputs
    yield {pixels.name: network_input(picture, _sides(pixels))[None]}


def _eomt(picture: Picture, inputs: Sequence[TensorSpec]) -> Iterator[Inputs]:
    from services.panoptic.eomt.pixels import network_input

    (pixels,) = inputs
    yield {pixels.name: network_input(picture, _sides(pixels)[0])[None]}


def _owlv2(picture: Picture, inputs: Sequence[TensorSpec]) -> Iterator[Inputs]:
    from services.detection.owlv2.pixels import network_input

    (pixels,) = inputs
    yield {pixels.name: network_input(picture, _sides(pixels)[0])[None]}


def _psgtr(picture: Picture, inputs: Sequence[TensorSpec]) -> Iterator[Inputs]:
    from services.scene_graph.psgtr.pixels import network_input

    pixels, mask, _ = network_input(picture)
    yield {"pixel_values": pixels[None], "pixel_mask": mask[None]}


def _yolo(picture: Picture, inputs: Sequence[TensorSpec]) -> Iterator[Inputs]:
    from serving.yolo import letterbox

    (pixels,) = inputs
    rectangular = not all(isinstance(side, int) for side in pixels.shape[2:])
    yield {pixels.name: letterbox(picture, rectangular=rectangular)[0][None]}


def _ocr_page(picture: Picture, inputs: Sequence[TensorSpec]) -> Iterator[Inputs]:
    from services.ocr.detection_input import detector_input, plan_frame
    from services.ocr.model import Limits

    (pixels,) = inputs
    frame = plan_frame(*picture.shape[:2], min_side=Limits.min_side, max_side=Limits.max_side)
    yield {pixels.name: detector_input(picture, frame)}


def _ocr_line(picture: Picture, inputs: Sequence[TensorSpec]) -> Iterator[Inputs]:
    from services.ocr.recognition import Recognizer, WidthBuckets

    (pixels,) = inputs
    reader = Recognizer(_silent(inputs), ("",), WidthBuckets())
    for line in reader.prepare(picture).inputs:
        yield {pixels.name: line.tensor[None]}


def _ocr_angle(picture: Picture, inputs: Sequence[TensorSpec]) -> Iterator[Inputs]:
    from services.ocr.orientation import AngleClassifier

    (pixels,) = inputs
    yield {pixels.name: AngleClassifier(_silent(inputs)).prepare(picture)[None]}


PREPARATIONS: Mapping[str, Prepare] = {
    "mask2former": _mask2former,
    "eomt": _eomt,
    "owlv2": _owlv2,
    "psgtr": _psgtr,
    "yolo": _yolo,
    "ocr-page": _ocr_page,
    "ocr-line": _ocr_line,
    "ocr-angle": _ocr_angle,
}
"""What `--prepare` takes."""

# The beginning of a name in the table of graphs, and what prepares for it.
_OF_TABLE = {
    "mask2former-": "mask2former",
    "eomt-": "eomt",
    "owlv2-": "owlv2",
    "psgtr-": "psgtr",
    "yolo": "yolo",
    "ppocrv6-det": "ocr-page",
    "ppocrv6-rec": "ocr-line",
    "ppocr-cls": "ocr-angle",
}


def calibration_of(
    graph: ExportedGraph, source: Path, folder: Path, *, prepare: str = "", keep: tuple[str, ...] = ()
) -> Calibration:
    """The pictures of `folder` (not of folders within it) as `graph`, whose file is `source`, takes them.

    `prepare` is one of `PREPARATIONS`, for a graph of one's own; `keep` as for `Calibration`. Raises EngineError where
    there are no pictures, or nothing says how to prepare them.
    """
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not pictures:
        raise EngineError(f"{folder}: no pictures in it ({', '.join(sorted(_SUFFIXES))})")
    way = prepare or next((way for start, way in _OF_TABLE.items() if graph.name.startswith(start)), "")
    if graph.file and not prepare:
        raise EngineError(f"{graph.name}: --prepare says how pictures become its input: {_ways()}")
    if way not in PREPARATIONS:
        raise EngineError(f"{way!r} is no preparation; there are: {_ways()}")
    inputs = read_inputs(source)
    if any(spec.dtype != "float32" for spec in inputs):
        raise EngineError(f"{graph.name} reads words, not pictures: it cannot be calibrated on them")

    def samples() -> Iterator[Inputs]:
        for picture in pictures:
            try:
                decoded = decode_image(picture.read_bytes())
            except PolysightError as error:
                raise EngineError(f"{picture}: {error}") from error
            yield from PREPARATIONS[way](decoded, inputs)

    digest = hashlib.sha256(way.encode())
    for picture in pictures:
        digest.update(hashlib.sha256(picture.read_bytes()).digest())
    return Calibration(samples, digest.hexdigest()[:16], keep)


def _ways() -> str:
    return ", ".join(PREPARATIONS)


def _sides(pixels: TensorSpec) -> tuple[int, int]:
    height, width = pixels.shape[2:]
    if not (isinstance(height, int) and isinstance(width, int)):
        raise EngineError(f"{pixels} has no size of its own, which this preparation needs")
    return height, width


def _silent(inputs: Sequence[TensorSpec]) -> FakeEngine:
    """An engine for what prepares as a method of what runs."""
    return FakeEngine(inputs, (TensorSpec("output", ("batch", "classes"), "float32"),), lambda _: {})
