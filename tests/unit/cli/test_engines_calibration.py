"""Pictures to calibrate on: prepared as each expert prepares them, and refused in words where they cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

from cli.engines import app
from cli.engines_calibration import calibration_of
from serving.engine import EngineError
from serving.engine.graph import ExportedGraph

Axes = list[str | int]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of 40 x 60, and a file that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.JPG"):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def exported(folder: Path, name: str, inputs: dict[str, Axes], *, own: bool = False) -> ExportedGraph:
    """A graph that gives its inputs back."""
    kind = TensorProto.INT64 if "input_ids" in inputs else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Identity", [each], [f"{each}_out"]) for each in inputs],
        "same",
        [helper.make_tensor_value_info(each, kind, axes) for each, axes in inputs.items()],
        [helper.make_tensor_value_info(f"{each}_out", kind, axes) for each, axes in inputs.items()],
    )
    path = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return ExportedGraph(name, lambda _: path, (), {}, file=str(path) if own else "")


@pytest.mark.parametrize(
    ("name", "inputs", "shapes"),
    [
        ("mask2former-tiny", {"pixel_values": ["batch", 3, 64, 96]}, [(1, 3, 64, 96)]),
        ("eomt-tiny", {"pixel_values": ["batch", 3, 64, 64]}, [(1, 3, 64, 64)]),
        ("owlv2-tiny-image", {"pixel_values": ["batch", 3, 64, 64]}, [(1, 3, 64, 64)]),
        (
            "psgtr-tiny",
            {"pixel_values": ["batch", 3, "h", "w"], "pixel_mask": ["batch", "h", "w"]},
            [(1, 3, 800, 1216), (1, 800, 1216)],
        ),
        ("yolo26n", {"images": ["batch", 3, "height", "width"]}, [(1, 3, 448, 640)]),
        ("ppocrv6-det", {"x": ["batch", 3, "height", "width"]}, [(1, 3, 736, 1088)]),
        ("ppocrv6-rec", {"x": ["batch", 3, 48, "width"]}, [(1, 3, 48, 320)]),
        ("ppocr-cls", {"x": ["batch", 3, "?", "?"]}, [(1, 3, 48, 192)]),
    ],
)
def test_a_graph_of_the_table_gets_its_experts_own_preparation(
    pictures: Path, tmp_path: Path, name: str, inputs: dict[str, Axes], shapes: list[tuple[int, ...]]
) -> None:
    graph = exported(tmp_path, name, inputs)
    calibration = calibration_of(graph, tmp_path / f"{name}.onnx", pictures)
    for _ in range(2):  # anew each time
        samples = list(calibration.samples())
        assert len(samples) == 2
        for sample in samples:
            assert [sample[each].shape for each in inputs] == shapes
            assert all(values.dtype == np.float32 for values in sample.values())


def test_what_was_calibrated_on_is_in_the_digest(pictures: Path, tmp_path: Path) -> None:
    axes: dict[str, Axes] = {"x": ["batch", 3, 64, 64]}
    graph = exported(tmp_path, "mine", axes, own=True)

    def digest(prepare: str) -> str:
        return calibration_of(graph, tmp_path / "mine.onnx", pictures, prepare=prepare).digest

    first = digest("eomt")
    assert digest("eomt") == first
    assert digest("owlv2") != first
    (pictures / "b.png").unlink()
    assert digest("eomt") != first


def test_what_cannot_be_calibrated_is_an_error(pictures: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    square: dict[str, Axes] = {"x": ["batch", 3, 64, 64]}
    mine, words = (
        exported(tmp_path, "mine", square, own=True),
        exported(tmp_path, "owlv2-tiny-text", {"input_ids": ["batch", 16]}),
    )
    free = exported(tmp_path, "free", {"x": ["batch", 3, "h", "w"]}, own=True)
    for graph, folder, prepare, why in [
        (mine, empty, "eomt", "no pictures in it"),
        (mine, pictures, "", "--prepare says how pictures become its input: mask2former"),
        (mine, pictures, "magic", "'magic' is no preparation"),
        (words, pictures, "", "reads words"),
    ]:
        with pytest.raises(EngineError, match=why):
            calibration_of(graph, tmp_path / f"{graph.name}.onnx", folder, prepare=prepare)
    with pytest.raises(EngineError, match="no size of its own"):
        list(calibration_of(free, tmp_path / "free.onnx", pictures, prepare="eomt").samples())
    (pictures / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(EngineError, match=r"c\.png: the PNG file is truncated"):
        list(calibration_of(mine, tmp_path / "mine.onnx", pictures, prepare="eomt").samples())


def test_weights_of_eight_bits_are_not_left_out_of_a_plan(pictures: Path) -> None:
    result = CliRunner().invoke(
        app, ["build", "eomt-tiny", "--precision", "int8", "--calibration", str(pictures), "--stripped"]
    )
    assert result.exit_code == 2
    assert "not with --stripped" in " ".join(result.output.replace("│", " ").split())
