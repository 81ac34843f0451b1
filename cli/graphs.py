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


def _made_by() -> str:
    """What an export depends on besides its configuration."""
    return " ".join(f"{package} {version(package)}" for package in ("torch", "transformers"))


def _square(side: int) -> ShapeRange:
    """Pictures of one size, in batches of one to eight."""
    return ShapeRange(min=(1, 3, side, side), opt=(2, 3, side, side), max=(8, 3, side, side))


def _mask2former(size: str, side: int, *, full: bool) -> ExportedGraph:
    def export(weights: WeightStore) -> Path:
        from services.panoptic.export import OPSET, export_mask2former

        def build(destination: Path) -> None:
            export_mask2former(f"random:{size}", destination)

        key = f"random:{size} opset {OPSET} {_made_by()}"
        return weights.derive(f"mask2former-{size}.onnx", key=key, build=build)

    return ExportedGraph(
        f"mask2former-{size}",
        export,
        (Profile(shapes={"pixel_values": _square(side)}),),
        {"pixel_values": (1 if full else 2, 3, side, side)},
        full=full,
    )


def _psgtr(size: str, pixels: ShapeRange, sample: tuple[int, ...], *, full: bool) -> ExportedGraph:
    """Sides follow the picture, in steps of 32."""

    def export(weights: WeightStore) -> Path:
        from services.scene_graph.export import OPSET, export_psgtr

        def build(destination: Path) -> None:
            export_psgtr(f"random:{size}", destination)

        key = f"random:{size} opset {OPSET} {_made_by()}"
        return weights.derive(f"psgtr-{size}.onnx", key=key, build=build)

    low, best, high = ((shape[0], *shape[2:]) for shape in (pixels.min, pixels.opt, pixels.max))
    mask = ShapeRange(min=low, opt=best, max=high)
    return ExportedGraph(
        f"psgtr-{size}",
        export,
        (Profile(shapes={"pixel_values": pixels, "pixel_mask": mask}),),
        {"pixel_values": sample, "pixel_mask": (sample[0], *sample[2:])},
        full=full,
    )


def _eomt(size: str, side: int, *, full: bool) -> ExportedGraph:
    def export(weights: WeightStore) -> Path:
        from services.panoptic.eomt.export import OPSET, export_eomt

        def build(destination: Path) -> None:
            export_eomt(f"random:{size}", destination)

        key = f"random:{size} opset {OPSET} {_made_by()}"
        return weights.derive(f"eomt-{size}.onnx", key=key, build=build)

    return ExportedGraph(
        f"eomt-{size}",
        export,
        (Profile(shapes={"pixel_values": _square(side)}),),
        {"pixel_values": (1 if full else 2, 3, side, side)},
        full=full,
    )


def _owlv2(size: str, half: str, inputs: ShapeRange, sample: tuple[int, ...], *, full: bool) -> ExportedGraph:
    """One half of an exported folder; both halves of a size are exported once."""

    def export(weights: WeightStore) -> Path:
        from services.detection.export import OPSET, export_owlv2

        def build(destination: Path) -> None:
            export_owlv2(f"random:{size}", destination)

        key = f"random:{size} opset {OPSET} {_made_by()}"
        folder = weights.derive(f"owlv2-{size}", key=key, build=build)
        return folder / f"{half}.onnx"

    tensor = {"image": "pixel_values", "text": "input_ids"}[half]
    profile = Profile(shapes={tensor: inputs})
    return ExportedGraph(f"owlv2-{size}-{half}", export, (profile,), {tensor: sample}, full=full)


_PSGTR_TINY = ShapeRange(min=(1, 3, 32, 32), opt=(2, 3, 64, 96), max=(8, 3, 96, 96))
# The published resize: the short side 800, the long one 1,333 at most; padded to steps of 32.
_PSGTR_R50 = ShapeRange(min=(1, 3, 32, 32), opt=(1, 3, 800, 1088), max=(4, 3, 1344, 1344))
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
    _mask2former("tiny", 64, full=False),
    _psgtr("tiny", _PSGTR_TINY, (2, 3, 64, 96), full=False),
    _eomt("tiny", 64, full=False),
    _owlv2("tiny", "image", _square(64), (2, 3, 64, 64), full=False),
    _owlv2("tiny", "text", _OWLV2_WORDS, (4, 16), full=False),
    # The sizes of production, with random weights too: `scripts/check-engines`.
    _mask2former("swin-base", 384, full=True),
    _mask2former("swin-large", 384, full=True),
    _psgtr("r50", _PSGTR_R50, (1, 3, 800, 1088), full=True),
    _eomt("large", 640, full=True),
    _owlv2("base", "image", _square(960), (1, 3, 960, 960), full=True),
    _owlv2("base", "text", _OWLV2_WORDS, (4, 16), full=True),
)
