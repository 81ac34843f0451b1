"""One set of rules for every engine, and the two silent habits of ONNX Runtime that are turned off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from serving.engine import Engine, EngineError, FakeEngine, OnnxRuntimeEngine, Tensor, TensorSpec
from serving.engine.onnxruntime import _check_providers, _options

X = TensorSpec("x", ("batch", 3), "float32")
Y = TensorSpec("y", ("batch", 3), "float32")


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """y = x + x."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "doubling.onnx"
    onnx.save(model, str(path))
    return path


def double(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"y": inputs["x"] + inputs["x"]}


@pytest.fixture(params=["fake", "onnxruntime"])
def engine(request: pytest.FixtureRequest, doubling: Path) -> Engine:
    if request.param == "fake":
        return FakeEngine([X], [Y], double, max_batch=4)
    return OnnxRuntimeEngine(doubling, threads=1, max_batch=4)


def rows(count: int) -> Tensor:
    return np.arange(count * 3, dtype=np.float32).reshape(count, 3)


def test_it_says_what_it_takes_and_gives(engine: Engine) -> None:
    assert isinstance(engine, Engine)
    assert engine.inputs == (X,)
    assert engine.outputs == (Y,)
    assert engine.max_batch == 4
    assert engine.name in ("fake", "onnxruntime-cpu")


@pytest.mark.parametrize("size", [1, 2, 4])
def test_it_runs_batches_up_to_its_limit(engine: Engine, size: int) -> None:
    outputs = engine.run({"x": rows(size)})
    assert list(outputs) == ["y"]
    np.testing.assert_array_equal(outputs["y"], rows(size) * 2)


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({}, "missing"),
        ({"x": rows(1), "z": rows(1)}, "unknown"),
        ({"z": rows(1)}, "takes x: float32"),
        ({"x": rows(1).astype(np.float64)}, "does not take float64"),
        ({"x": rows(1)[:, :2]}, r"does not take float32\[1, 2\]"),
        ({"x": rows(1)[0]}, r"does not take float32\[3\]"),
        ({"x": rows(5)}, "a batch of 5 is outside 1..4"),
        ({"x": rows(0)}, "a batch of 0 is outside 1..4"),
    ],
)
def test_wrong_inputs_are_named(engine: Engine, inputs: dict[str, Tensor], why: str) -> None:
    with pytest.raises(EngineError, match=why):
        engine.run(inputs)


def test_after_close_nothing_runs(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="after close"):
        engine.run({"x": rows(1)})


def test_inputs_must_agree_on_the_batch() -> None:
    other = TensorSpec("z", ("batch", 3), "float32")
    engine = FakeEngine([X, other], [Y], double)
    with pytest.raises(EngineError, match="disagree"):
        engine.run({"x": rows(1), "z": rows(2)})


@pytest.mark.parametrize(
    ("compute", "why"),
    [
        (lambda _: {}, "instead of"),
        (lambda _: {"y": rows(1), "z": rows(1)}, "instead of"),
        (lambda _: {"y": rows(1).astype(np.int64)}, "computed as int64"),
        (lambda _: {"y": rows(1)[0]}, "computed as float32"),
    ],
)
def test_a_fake_that_drifts_from_its_specification_says_so(
    compute: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], why: str
) -> None:
    with pytest.raises(EngineError, match=why):
        FakeEngine([X], [Y], compute).run({"x": rows(1)})


def test_a_fake_remembers_its_batches() -> None:
    engine = FakeEngine([X], [Y], double)
    for size in (1, 3):
        engine.run({"x": rows(size)})
    assert engine.batches == [1, 3]


def test_an_absent_provider_is_an_error_not_a_warning(doubling: Path) -> None:
    with pytest.raises(EngineError, match="has no MadeUpExecutionProvider"):
        OnnxRuntimeEngine(doubling, providers=("MadeUpExecutionProvider",))


def test_a_provider_that_did_not_start_is_an_error() -> None:
    _check_providers("m", ("CUDA",), ("CUDA", "CPUExecutionProvider"))
    _check_providers("m", ("CUDA", "CPUExecutionProvider"), ("CUDA", "CPUExecutionProvider"))
    for asked in [("CUDA",), ("TensorRT", "CUDA")]:
        with pytest.raises(EngineError, match="started"):
            _check_providers("m", asked, ("CPUExecutionProvider",))


def test_idle_threads_do_not_spin() -> None:
    options = _options(threads=2)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.intra_op_num_threads == 2


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    for path in (broken, tmp_path / "absent.onnx"):
        with pytest.raises(EngineError, match="cannot be loaded"):
            OnnxRuntimeEngine(path)


def test_a_batch_limit_below_one(doubling: Path) -> None:
    with pytest.raises(EngineError, match="at least 1"):
        OnnxRuntimeEngine(doubling, max_batch=0)
