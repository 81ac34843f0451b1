"""Casting a graph to half precision, and measuring what it cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.engine import EngineError
from serving.engine.compare import difference
from serving.engine.precision import cast_to_half


def matmul(path: Path, weights: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Path:
    """y = x · weights."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weights.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return matmul(tmp_path / "g.onnx", np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32))


def test_a_cast_graph_computes_in_half_and_speaks_float32(graph: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    cast_to_half(graph, half)
    model = onnx.load(str(half))
    kinds = {initializer.data_type for initializer in model.graph.initializer}
    assert kinds == {TensorProto.FLOAT16}
    for tensor in (*model.graph.input, *model.graph.output):
        assert tensor.type.tensor_type.elem_type == TensorProto.FLOAT


def test_the_difference_of_half_precision_is_that_of_half_precision(graph: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    cast_to_half(graph, half)
    apart = difference(graph, half, {"x": (4, 32)})
    assert 1e-5 < apart.relative < 1e-2
    assert apart.absolute > apart.relative / 10


def test_a_graph_is_not_far_from_itself(graph: Path) -> None:
    assert difference(graph, graph, {"x": (4, 32)}).relative < 1e-6


def test_another_graph_is_found_out(graph: Path, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
    weights[3, 3] += 1
    assert difference(graph, matmul(tmp_path / "other.onnx", weights), {"x": (64, 32)}).absolute > 0.5


def test_what_cannot_be_compared_is_an_error(graph: Path, tmp_path: Path) -> None:
    narrow = matmul(tmp_path / "narrow.onnx", np.ones((32, 4), np.float32))
    broken = matmul(tmp_path / "nan.onnx", np.full((32, 8), np.nan, np.float32))
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    for other, why in [
        (narrow, "another shape"),
        (broken, "no numbers"),
        (tmp_path / "junk.onnx", "cannot be loaded"),
    ]:
        with pytest.raises(EngineError, match=why):
            difference(graph, other, {"x": (4, 32)})
    with pytest.raises(EngineError, match="no sample for input x"):
        difference(graph, graph, {})
