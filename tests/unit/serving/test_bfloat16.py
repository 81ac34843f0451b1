"""Casting a graph to bfloat16: which values come out, what stays float32, and that the widened twin is the same."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from serving.engine import EngineError
from serving.engine.bfloat16 import cast_to_bfloat16, widen
from serving.engine.compare import difference

torch = pytest.importorskip("torch")

Array = NDArray[np.float32]
WIDTH = 16
W = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32) / 2


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, Array] | None = None,
    *,
    outputs: tuple[str, ...] = ("y",),
    shape: tuple[str | int, ...] = ("batch", WIDTH),
    opset: int = 17,
) -> Path:
    """A graph from x to `outputs`, all float32."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "columns"]) for name in outputs],
        [
            numpy_helper.from_array(value, name)
            for name, value in ({"w": W} if weights is None else weights).items()
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path)
    )
    return path


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """y = softmax(relu((x · w)ᵀᵀ) · w): products, what moves their result, and what does not."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[1, 0]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["e"]),
        helper.make_node("Softmax", ["e"], ["y"], axis=-1),
    ]
    return save(tmp_path / "chain.onnx", nodes)


def run(path: Path, x: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, {"x": x})
    return found


def low(path: Path) -> onnx.ModelProto:
    cast_to_bfloat16(path, path.with_suffix(".bf16.onnx"))
    return onnx.load(str(path.with_suffix(".bf16.onnx")))


def wide(path: Path) -> Path:
    low(path)
    widen(path.with_suffix(".bf16.onnx"), path.with_suffix(".wide.onnx"))
    return path.with_suffix(".wide.onnx")


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_values_are_those_of_torch_in_bfloat16(chain: Path, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(3, WIDTH)).astype(np.float32)
    weights = torch.from_numpy(W).bfloat16()
    hidden = torch.relu(torch.from_numpy(x).bfloat16() @ weights)
    expected = torch.softmax((hidden @ weights).float(), -1).numpy()
    (found,) = run(wide(chain), x)
    # One rounding of bfloat16 apart where the order of a sum tips it.
    np.testing.assert_allclose(found, expected, rtol=2**-6, atol=1e-6)
    (exact,) = run(chain, x)
    assert np.abs(found - exact).max() > 0


def test_the_graph_itself_runs_by_onnx_own_rules_as_its_widened_twin_does(chain: Path) -> None:
    x = np.random.default_rng(1).normal(size=(4, WIDTH)).astype(np.float32)
    (by_rule,) = cast(list[Array], ReferenceEvaluator(low(chain)).run(None, {"x": x}))
    (twin,) = run(wide(chain), x)
    # The reference sums in bfloat16, tensor cores and the twin in float32.
    np.testing.assert_allclose(by_rule, twin, rtol=0.1, atol=0.02)


def test_products_and_moves_are_low_and_all_else_is_not(chain: Path) -> None:
    model = low(chain)
    assert [tensor.data_type for tensor in model.graph.initializer] == [TensorProto.BFLOAT16]
    for tensor in (*model.graph.input, *model.graph.output):
        assert tensor.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [node.op_type for node in model.graph.node] == [
        "Cast",
        "MatMul",
        "Transpose",
        "Transpose",
        "Relu",
        "MatMul",
        "Cast",
        "Softmax",
    ]
    onnx.checker.check_model(model, full_check=True)


def test_what_is_used_in_both_types_is_there_in_both(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),  # an output as well, and read by both kinds
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("MatMul", ["a", "w"], ["c"]),
        helper.make_node("Add", ["c", "w"], ["y"]),  # the weight is read by both kinds
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("Reshape", ["b", "s"], ["z"]),
    ]
    path = save(tmp_path / "both.onnx", nodes, outputs=("y", "a", "z"), shape=(WIDTH, WIDTH))
    onnx.checker.check_model(low(path), full_check=True)
    x = (np.random.default_rng(2).normal(size=(WIDTH, WIDTH)) / 8).astype(np.float32)
    for found, expected in zip(run(wide(path), x), run(path, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.05)


def test_a_branch_sees_float32(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Exp", ["a"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["n"])],
        "else",
        [],
        [helper.make_tensor_value_info("n", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["yes"], to=TensorProto.BOOL),
        helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=other),
    ]
    path = save(tmp_path / "branch.onnx", nodes)
    x = np.full((1, WIDTH), 0.25, np.float32)
    np.testing.assert_allclose(run(wide(path), x)[0], run(path, x)[0], rtol=0.05)
    np.testing.assert_allclose(run(wide(path), np.zeros((1, WIDTH), np.float32))[0], np.zeros((1, WIDTH)))


def test_masks_stay_finite_and_infinities_infinite(tmp_path: Path) -> None:
    weights = np.full((WIDTH, WIDTH), np.finfo(np.float32).min, np.float32)
    weights[0, 0] = -np.inf
    path = save(tmp_path / "mask.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights})
    (tensor,) = low(path).graph.initializer
    found = numpy_helper.to_array(tensor).astype(np.float32)
    assert np.isneginf(found[0, 0])
    assert np.isfinite(found).sum() == WIDTH * WIDTH - 1
    assert (found[1:] < -3e38).all()


def test_the_cost_is_that_of_eight_bits(chain: Path) -> None:
    apart = difference(chain, wide(chain), {"x": (8, WIDTH)}, optimised=False)
    assert 1e-5 < apart.relative < 5e-2
    assert apart.seconds > 0


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    for content in (b"no graph", b""):
        junk.write_bytes(content)
        with pytest.raises(EngineError, match="cannot be read as an ONNX graph"):
            cast_to_bfloat16(junk, tmp_path / "out.onnx")
    with pytest.raises(EngineError, match="cannot be read as an ONNX graph"):
        cast_to_bfloat16(tmp_path / "absent.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_graph_older_than_bfloat16_is_brought_up_to_it(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Softmax", ["a"], ["y"], axis=1)]
    old = save(tmp_path / "old.onnx", nodes, opset=11)
    onnx.checker.check_model(low(old), full_check=True)
    assert 0 < difference(old, wide(old), {"x": (4, WIDTH)}, optimised=False).relative < 5e-2
