"""`polysight engines build --precision int8|fp8`, from pictures to a plan in the store, with TensorRT's own builder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from cli.engines import app

pytest.importorskip("tensorrt_rtx")

SIDE, CHANNELS = 16, 8


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A convolution and a product, as one's own export would write them."""
    rng = np.random.default_rng(0)
    kernel, matrix = rng.normal(size=(CHANNELS, 3, 3, 3)), rng.normal(size=(CHANNELS, CHANNELS))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["c"]),
            helper.make_node("GlobalAveragePool", ["c"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "matrix"], ["y"]),
        ],
        "mine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CHANNELS])],
        [
            numpy_helper.from_array(kernel.astype(np.float32), "kernel"),
            numpy_helper.from_array(matrix.astype(np.float32), "matrix"),
        ],
    )
    path = tmp_path / "mine.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_pictures_become_a_plan_and_other_pictures_another(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYSIGHT_CACHE", str(tmp_path / "cache"))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)

    def add(name: str) -> None:
        Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(pictures / name)

    def build(precision: str, target: str) -> tuple[str, ...]:
        options = ["--onnx", str(network), "--precision", precision, "--targets", target]
        calibration = [
            "--calibration",
            str(pictures),
            "--prepare",
            "eomt",
            "--store",
            str(tmp_path / "plans"),
        ]
        result = CliRunner().invoke(app, ["build", *options, *calibration, "--json"])
        assert result.exit_code == 0, result.output
        (plan,) = json.loads(result.stdout.splitlines()[-1])["plans"]
        assert (plan["graph"], plan["precision"], plan["targets"]) == ("mine", precision, [target])
        return plan["digest"], plan["seconds"]

    add("one.png")
    first = build("int8", "sm80")
    assert build("int8", "sm80") == first  # the very plan: not built again
    add("two.png")
    assert build("int8", "sm80")[0] != first[0]
    assert build("fp8", "sm89")[0] != first[0]


def test_without_pictures_the_command_says_what_it_needs(network: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        [
            "build",
            "--onnx",
            str(network),
            "--precision",
            "int8",
            "--targets",
            "sm80",
            "--store",
            str(tmp_path),
        ],
    )
    assert result.exit_code == 1
    assert "mine in int8 needs pictures to calibrate on: --calibration FOLDER" in " ".join(
        result.output.split()
    )
