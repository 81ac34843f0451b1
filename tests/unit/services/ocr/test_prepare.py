"""The ONNX file on the wire: metadata out, subnormal weights to zero, everything else untouched."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from services.ocr.onnx_file import OnnxFormatError, float32_weights, read_metadata
from services.ocr.prepare import flush_subnormals, read_charset

SUBNORMAL = np.float32(1e-40)


def model(**weights: np.ndarray) -> onnx.ModelProto:
    """A small valid graph with the given initialisers."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [x],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph)
    helper.set_model_props(made, {"character": "a\nb\n中", "other": "x"})
    return made


def test_only_subnormal_float32_weights_change() -> None:
    floats = np.array([1.0, SUBNORMAL, -SUBNORMAL, 0.0, np.finfo(np.float32).tiny, -3.5], dtype=np.float32)
    integers = np.array([1, 2, 3], dtype=np.int32)  # as floats these bits would be subnormal
    doubles = np.array([1e-300, 1e-310], dtype=np.float64)
    before = model(floats=floats, integers=integers, doubles=doubles)

    after = onnx.load_from_string(flush_subnormals(before.SerializeToString()))

    got = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    assert got["floats"].tolist() == [1.0, 0.0, 0.0, 0.0, float(np.finfo(np.float32).tiny), -3.5]
    assert got["integers"].tolist() == integers.tolist()
    assert got["doubles"].tolist() == doubles.tolist()
    for tensor in after.graph.initializer:
        tensor.raw_data = b""
    for tensor in before.graph.initializer:
        tensor.raw_data = b""
    assert after == before


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(width=32, allow_nan=False), max_size=50))
def test_flushing_is_what_numpy_says_and_flushing_again_changes_nothing(values: list[float]) -> None:
    weights = np.array(values, dtype=np.float32)

    once = flush_subnormals(model(w=weights).SerializeToString())

    (flushed,) = onnx.load_from_string(once).graph.initializer
    wanted = np.where(np.abs(weights) < np.finfo(np.float32).tiny, np.float32(0), weights)
    assert np.array_equal(numpy_helper.to_array(flushed), wanted)
    assert flush_subnormals(once) == once


def test_the_charset_is_blank_characters_space(tmp_path: object) -> None:
    path = tmp_path / "rec.onnx"  # type: ignore[operator]
    path.write_bytes(model().SerializeToString())

    assert read_charset(path) == ("", "a", "b", "中", " ")


def test_a_model_without_characters_is_refused(tmp_path: object) -> None:
    path = tmp_path / "det.onnx"  # type: ignore[operator]
    made = model()
    del made.metadata_props[:]
    path.write_bytes(made.SerializeToString())

    with pytest.raises(ValueError, match="no character list"):
        read_charset(path)


@pytest.mark.parametrize("data", [b"\xff" * 12, b"\x3a\x7f\x01", b"\x0b", b"\x3a"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(OnnxFormatError):
        list(float32_weights(data))


def test_metadata() -> None:
    assert read_metadata(model().SerializeToString()) == {"character": "a\nb\n中", "other": "x"}
