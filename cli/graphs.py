"""The table of graphs that plans are built from: one entry a graph; an expert that exports a new one enters it here."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from serving.engine.graph import ExportedGraph
from serving.engine.tensorrt import Profile, ShapeRange
from serving.weights import WeightStore


def _yolo(artifact: str) -> ExportedGraph:
    def export(weights: WeightStore) -> Path:
        from serving.weights.yolo_export import exported_onnx

        return exported_onnx(weights, artifact)

    # One side of a letterboxed picture is 640, the other anything from 32 in steps of 32.
    sizes = ShapeRange(min=(1, 3, 32, 32), opt=(4, 3, 640, 640), max=(8, 3, 640, 640))
    return ExportedGraph(artifact, export, (Profile(shapes={"images": sizes}),), {"images": (1, 3, 320, 320)})


def _flushed(artifact: str, sizes: ShapeRange, sample: tuple[int, ...]) -> ExportedGraph:
    def export(weights: WeightStore) -> Path:
        from services.ocr.prepare import prepared_model

        return prepared_model(weights, artifact)

    return ExportedGraph(artifact, export, (Profile(shapes={"x": sizes}),), {"x": sample})


def _tiny_mask2former() -> ExportedGraph:
    def export(weights: WeightStore) -> Path:
        from services.panoptic.export import OPSET, export_mask2former

        def build(destination: Path) -> None:
            export_mask2former("random:tiny", destination)

        made_by = " ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))
        return weights.derive(
            "mask2former-tiny.onnx", key=f"random:tiny opset {OPSET} {made_by}", build=build
        )

    pixels = ShapeRange(min=(1, 3, 64, 64), opt=(2, 3, 64, 64), max=(8, 3, 64, 64))
    return ExportedGraph(
        "mask2former-tiny",
        export,
        (Profile(shapes={"pixel_values": pixels}),),
        {"pixel_values": (2, 3, 64, 64)},
    )


def _tiny_psgtr() -> ExportedGraph:
    def export(weights: WeightStore) -> Path:
        from services.scene_graph.export import OPSET, export_psgtr

        def build(destination: Path) -> None:
            export_psgtr("random:tiny", destination)

        made_by = " ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))
        return weights.derive("psgtr-tiny.onnx", key=f"random:tiny opset {OPSET} {made_by}", build=build)

    # Sides follow the picture, in steps of 32.
    pixels = ShapeRange(min=(1, 3, 32, 32), opt=(2, 3, 64, 96), max=(8, 3, 96, 96))
    mask = ShapeRange(min=(1, 32, 32), opt=(2, 64, 96), max=(8, 96, 96))
    return ExportedGraph(
        "psgtr-tiny",
        export,
        (Profile(shapes={"pixel_values": pixels, "pixel_mask": mask}),),
        {"pixel_values": (2, 3, 64, 96), "pixel_mask": (2, 64, 96)},
    )


def _tiny_eomt() -> ExportedGraph:
    def export(weights: WeightStore) -> Path:
        from services.panoptic.eomt.export import OPSET, export_eomt

        def build(destination: Path) -> None:
            export_eomt("random:tiny", destination)

        made_by = " ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))
        return weights.derive("eomt-tiny.onnx", key=f"random:tiny opset {OPSET} {made_by}", build=build)

    pixels = ShapeRange(min=(1, 3, 64, 64), opt=(2, 3, 64, 64), max=(8, 3, 64, 64))
    return ExportedGraph(
        "eomt-tiny", export, (Profile(shapes={"pixel_values": pixels}),), {"pixel_values": (2, 3, 64, 64)}
    )


def _owlv2(size: str, half: str, inputs: ShapeRange, sample: tuple[int, ...], *, full: bool) -> ExportedGraph:
    """One half of an exported folder; both halves of a size are exported once."""

    def export(weights: WeightStore) -> Path:
        from services.detection.export import OPSET, export_owlv2

        def build(destination: Path) -> None:
            export_owlv2(f"random:{size}", destination)

        made_by = " ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))
        folder = weights.derive(f"owlv2-{size}", key=f"random:{size} opset {OPSET} {made_by}", build=build)
        return folder / f"{half}.onnx"

    tensor = {"image": "pixel_values", "text": "input_ids"}[half]
    profile = Profile(shapes={tensor: inputs})
    return ExportedGraph(f"owlv2-{size}-{half}", export, (profile,), {tensor: sample}, full=full)


_OWLV2_TINY = ShapeRange(min=(1, 3, 64, 64), opt=(2, 3, 64, 64), max=(8, 3, 64, 64))
_OWLV2_BASE = ShapeRange(min=(1, 3, 960, 960), opt=(2, 3, 960, 960), max=(8, 3, 960, 960))
_OWLV2_WORDS = ShapeRange(min=(1, 16), opt=(64, 16), max=(64, 16))

GRAPHS: tuple[ExportedGraph, ...] = (
    _yolo("yolo26n"),
    _yolo("yolo26n-seg"),
    # Pictures up to the longest side that the expert's settings start with; batches cost memory, so they are small.
    _flushed(
        "ppocrv6-det",
        ShapeRange(min=(1, 3, 32, 32), opt=(1, 3, 960, 960), max=(4, 3, 1280, 1280)),
        (1, 3, 320, 320),
    ),
    # Lines are 48 high and as wide as they are long.
    _flushed(
        "ppocrv6-rec",
        ShapeRange(min=(1, 3, 48, 48), opt=(8, 3, 48, 320), max=(8, 3, 48, 3200)),
        (2, 3, 48, 320),
    ),
    ExportedGraph(
        "ppocr-cls",
        lambda weights: weights.fetch("ppocr-cls"),
        (Profile(shapes={"x": ShapeRange(min=(1, 3, 48, 192), opt=(8, 3, 48, 192), max=(8, 3, 48, 192))}),),
        {"x": (2, 3, 48, 192)},
    ),
    # The production architecture with random weights, small enough to build in a test.
    _tiny_mask2former(),
    _tiny_psgtr(),
    _tiny_eomt(),
    _owlv2("tiny", "image", _OWLV2_TINY, (2, 3, 64, 64), full=False),
    _owlv2("tiny", "text", _OWLV2_WORDS, (4, 16), full=False),
    _owlv2("base", "image", _OWLV2_BASE, (1, 3, 960, 960), full=True),
    _owlv2("base", "text", _OWLV2_WORDS, (4, 16), full=True),
)
