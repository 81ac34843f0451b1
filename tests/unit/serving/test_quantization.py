"""Eight bits: where the pairs are, what the scales are, and what they cost in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from serving.engine import EngineError, Tensor
from serving.engine.compare import difference
from serving.engine.graph import ExportedGraph, prepare_graph
from serving.engine.quantization import Calibration, EightBits, quantize_graph
from serving.engine.tensorrt import Profile, ShapeRange
from serving.weights import WeightStore

CHANNELS, CLASSES = 6, 5
# Of the output's largest value, on this graph and uniform inputs. Both factors of a product are rounded, in float8 each
# by a sixteenth at most; the terms of a sum may be larger than the sum.
TOLERANCE: dict[EightBits, float] = {"int8": 0.04, "fp8": 0.2}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A convolution, its mean over the picture, and a product: x (batch, 3, 8, 8) to y (batch, 5), opset 11."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.normal(size=(CHANNELS, 3, 3, 3)) * np.array([1, 10, 0.1, 1, 1, 1])[:, None, None, None],
        "bias": rng.normal(size=CHANNELS),
        "matrix": rng.normal(size=(CHANNELS, CLASSES)) / 3,
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["c"], name="stem"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "matrix"], ["y"], name="head"),
    ]
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), str(path))
    return path


def samples(count: int = 3, largest: float = 1.0) -> Iterator[Mapping[str, Tensor]]:
    for seed in range(count):
        x = np.random.default_rng(seed).random((1, 3, 8, 8), np.float32)
        x.flat[0] = largest
        yield {"x": x}


CALIBRATION = Calibration(samples, "three")


def quantized(graph: Path, precision: EightBits, calibration: Calibration = CALIBRATION) -> onnx.ModelProto:
    path = graph.with_suffix(f".{precision}.onnx")
    quantize_graph(graph, path, precision, calibration)
    return onnx.load(str(path))


def scale_into(model: onnx.ModelProto, consumer: str, position: int) -> Tensor:
    """The scale of the pair in front of an input of a node."""
    (node,) = [node for node in model.graph.node if node.name == consumer]
    (pair,) = [other for other in model.graph.node if node.input[position] in other.output]
    assert pair.op_type == "DequantizeLinear"
    (scale,) = [weight for weight in model.graph.initializer if weight.name == pair.input[1]]
    found: Tensor = numpy_helper.to_array(scale)
    return found


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_the_difference_is_that_of_eight_bits(graph: Path, precision: EightBits) -> None:
    quantized(graph, precision)
    for optimised in (False, True):
        apart = difference(
            graph, graph.with_suffix(f".{precision}.onnx"), {"x": (4, 3, 8, 8)}, optimised=optimised
        )
        assert 1e-4 < apart.relative < TOLERANCE[precision]


@pytest.mark.parametrize(("precision", "largest"), [("int8", 127), ("fp8", 448)])
def test_scales_are_largest_magnitudes_and_weights_have_one_a_channel(
    graph: Path, precision: EightBits, largest: int
) -> None:
    matrix = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(graph)).graph.initializer}["matrix"]
    model = quantized(graph, precision, Calibration(lambda: samples(largest=7.0), "wide"))
    np.testing.assert_allclose(scale_into(model, "head", 1), np.abs(matrix).max(axis=0) / largest, rtol=1e-5)
    if precision == "int8":
        np.testing.assert_allclose(scale_into(model, "stem", 0), 7 / largest, rtol=1e-5)
        assert scale_into(model, "stem", 1).shape == (CHANNELS,)


def test_float8_leaves_convolutions_alone_and_has_zero_points_of_its_type(graph: Path) -> None:
    model = quantized(graph, "fp8")
    (stem,) = [node for node in model.graph.node if node.op_type == "Conv"]
    assert list(stem.input) == ["x", "kernel", "bias"]
    zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    kinds = {weight.name: weight.data_type for weight in model.graph.initializer}
    assert {kinds[zero] for zero in zeros} == {TensorProto.FLOAT8E4M3FN}
    assert min(entry.version for entry in model.opset_import if not entry.domain) >= 19


def test_biases_inputs_and_outputs_stay_float32(graph: Path) -> None:
    model = quantized(graph, "int8")
    (stem,) = [node for node in model.graph.node if node.op_type == "Conv"]
    assert stem.input[2] == "bias"
    for tensor in (*model.graph.input, *model.graph.output):
        assert tensor.type.tensor_type.elem_type == TensorProto.FLOAT
    assert TensorProto.INT32 not in {weight.data_type for weight in model.graph.initializer}


def test_what_is_kept_has_no_pairs(graph: Path) -> None:
    model = quantized(graph, "int8", Calibration(samples, "three", keep=("st*",)))
    (stem,) = [node for node in model.graph.node if node.op_type == "Conv"]
    assert list(stem.input) == ["x", "kernel", "bias"]
    assert scale_into(model, "head", 0).shape == ()


@given(st.integers(0, 2**31), st.sampled_from(["int8", "fp8"]))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_input_within_the_calibrated_range_is_far_off(
    graph: Path, seed: int, precision: EightBits
) -> None:
    path = graph.with_suffix(f".{precision}.onnx")
    if not path.exists():
        quantized(graph, precision)
    assert difference(graph, path, {"x": (2, 3, 8, 8)}, seed=seed).relative < TOLERANCE[precision]


def test_what_cannot_be_quantised_is_an_error(graph: Path) -> None:
    def infinite() -> Iterator[Mapping[str, Tensor]]:
        yield {"x": np.full((1, 3, 8, 8), np.inf, np.float32)}

    for calibration, why in [
        (Calibration(lambda: iter(()), "none"), "nothing to calibrate on"),
        (Calibration(infinite, "infinite"), "no numbers"),
        (Calibration(lambda: iter([{"y": np.zeros(1, np.float32)}]), "other"), "cannot be quantised"),
        (Calibration(samples, "three", keep=("*",)), "nothing in it to quantise"),
    ]:
        with pytest.raises(EngineError, match=why):
            quantized(graph, "int8", calibration)
    assert list(graph.parent.iterdir()) == [graph]


def test_a_prepared_graph_of_eight_bits_is_told_by_its_calibration(graph: Path, tmp_path: Path) -> None:
    sizes = ShapeRange(min=(1, 3, 8, 8), opt=(1, 3, 8, 8), max=(2, 3, 8, 8))
    exported = ExportedGraph("small", lambda _: graph, (Profile(shapes={"x": sizes}),), {"x": (1, 3, 8, 8)})
    weights = WeightStore(tmp_path / "cache")
    with pytest.raises(EngineError, match="needs pictures to calibrate on: --calibration"):
        prepare_graph(exported, "int8", weights)
    first = prepare_graph(exported, "int8", weights, calibration=lambda _: CALIBRATION)
    other = Calibration(lambda: samples(5), "five")
    second = prepare_graph(exported, "int8", weights, calibration=lambda _: other)
    assert "three" in first.recipe
    assert first.recipe != second.recipe
    assert first.onnx != second.onnx
    assert first.digest == second.digest
