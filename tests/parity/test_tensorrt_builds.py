"""Graphs through TensorRT's own parser and builder, ahead of time, on a machine without a GPU.

`tensorrt_rtx` builds for compute capabilities 7.5, 8.0, 8.6, 8.9, 12.0 and 12.1. Not for 9.0 and 10.0: plans for those
are built by `tensorrt` on such a GPU.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cli.engines_check import check_graph
from cli.engines_onnx import own_graphs
from cli.graphs import GRAPHS
from serving.engine import Tensor, TensorSpec
from serving.engine.graph import ExportedGraph, prepare_graph
from serving.engine.quantization import Calibration
from serving.engine.tensorrt import (
    BuildFailedError,
    BuildRequest,
    GraphRefusedError,
    Profile,
    ShapeRange,
    TargetUnsupportedError,
    TensorRTLibrary,
    build_plan,
    load_library,
)
from serving.engine.tensorrt.errors import ProfileError
from serving.engine.tensorrt.plan import Precision
from serving.engine.tensorrt.store import PlanStore
from serving.weights import WeightStore

pytest.importorskip("tensorrt_rtx")

TARGETS = ("sm80", "sm86", "sm89", "sm120")
WIDTH = 16
PROFILE = Profile(shapes={"x": ShapeRange(min=(1, WIDTH), opt=(4, WIDTH), max=(8, WIDTH))})


@pytest.fixture(scope="module")
def rtx() -> TensorRTLibrary:
    return load_library("tensorrt_rtx")


def save(path: Path, nodes: list[onnx.NodeProto], *, axes: list[str | int], opset: int = 17) -> Path:
    """A graph from x to y, both float32, with a weight matrix `w`."""
    weights = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32) / 4
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path)
    )
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """y = relu(x · W) · W."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    return save(tmp_path / "tiny.onnx", nodes, axes=["batch", WIDTH])


@pytest.mark.parametrize("target", TARGETS)
def test_a_graph_builds_for_each_architecture(rtx: TensorRTLibrary, tiny: Path, target: str) -> None:
    built = build_plan(rtx, BuildRequest(tiny, (PROFILE,), (target,)))
    assert len(built.plan) > 1000
    assert built.inputs == (TensorSpec("x", ("batch", WIDTH), "float32"),)
    assert built.outputs == (TensorSpec("y", ("y.0", WIDTH), "float32"),)
    assert built.seconds > 0
    assert "tiny.onnx" in built.log


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_graph_in_every_precision_is_checked_whole(
    rtx: TensorRTLibrary, tiny: Path, tmp_path: Path, precision: Precision
) -> None:
    graph = ExportedGraph("tiny", lambda _: tiny, (PROFILE,), {"x": (2, WIDTH)})
    told = check_graph(graph, precision, rtx, TARGETS, WeightStore(tmp_path / "cache"))
    assert told["error"] == ""
    assert told["parsed"]
    assert told["built"]
    assert told["bytes"] > 1000
    assert told["max_abs_diff_onnx"] is not None
    least, most = {"fp32": (-1, 1e-5), "fp16": (1e-5, 1e-2), "bf16": (1e-4, 1e-1)}[precision]
    assert least < told["max_abs_diff_onnx"] < most
    assert told["run_seconds"] is not None
    assert told["peak_mb"] > 10


def test_without_a_library_the_graph_is_run_and_nothing_built(tiny: Path, tmp_path: Path) -> None:
    graph = ExportedGraph("tiny", lambda _: tiny, (PROFILE,), {"x": (2, WIDTH)})
    told = check_graph(graph, "fp32", None, TARGETS, WeightStore(tmp_path / "cache"))
    assert (told["parsed"], told["built"], told["bytes"], told["error"]) == (None, None, 0, "")
    assert told["max_abs_diff_onnx"] is not None


def test_the_same_build_twice_is_one_plan_in_the_store(
    rtx: TensorRTLibrary, tiny: Path, tmp_path: Path
) -> None:
    store, weights = PlanStore(tmp_path / "plans"), WeightStore(tmp_path / "cache")
    graph = ExportedGraph("tiny", lambda _: tiny, (PROFILE,), {"x": (2, WIDTH)})
    prepared = prepare_graph(graph, "fp16", weights)
    phases: list[str] = []

    def progress(phase: str, done: int, steps: int) -> None:
        phases.append(phase)

    key = prepared.key(rtx, ("sm86",))
    plan = store.obtain(
        key, lambda _: build_plan(rtx, BuildRequest(prepared.onnx, (PROFILE,), ("sm86",)), on_step=progress)
    )
    assert phases
    seen = len(phases)
    again = store.obtain(key, lambda _: pytest.fail("built twice"))
    assert again == plan
    assert len(phases) == seen
    assert plan.sidecar.key.library_version == rtx.version


def test_axes_of_one_meaningless_name_may_differ(rtx: TensorRTLibrary, tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    square = save(tmp_path / "square.onnx", nodes, axes=["batch", "?", "?"])
    sizes = ShapeRange(min=(1, 48, 192), opt=(1, 48, 192), max=(2, 48, 192))
    built = build_plan(rtx, BuildRequest(square, (Profile(shapes={"x": sizes}),), ("sm86",)))
    assert built.inputs[0].shape == ("batch", "?", "x.2")


def test_a_refusal_of_the_parser_names_the_node(rtx: TensorRTLibrary, tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Foo", ["a"], ["y"], name="odd")]
    with pytest.raises(GraphRefusedError) as refused:
        build_plan(
            rtx,
            BuildRequest(save(tmp_path / "odd.onnx", nodes, axes=["batch", WIDTH]), (PROFILE,), ("sm86",)),
        )
    assert refused.value.problems[0].operator == "Foo"
    assert refused.value.problems[0].node == "odd"
    assert "odd.onnx: the ONNX parser of TensorRT refuses it" in str(refused.value)


def test_a_file_that_is_no_graph_is_refused(rtx: TensorRTLibrary, tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"not a graph")
    for path in (junk, tmp_path / "absent.onnx"):
        with pytest.raises(GraphRefusedError, match=path.name):
            build_plan(rtx, BuildRequest(path, (PROFILE,), ("sm86",)))


def test_a_failure_of_the_builder_says_what_the_builder_said(rtx: TensorRTLibrary, tmp_path: Path) -> None:
    # x · W needs a width of 16, the free axis lets the profile ask for 8.
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    free = save(tmp_path / "free.onnx", nodes, axes=["batch", "width"])
    narrow = Profile(shapes={"x": ShapeRange(min=(1, 8), opt=(1, 8), max=(1, 8))})
    with pytest.raises(BuildFailedError, match="ERROR"):
        build_plan(rtx, BuildRequest(free, (narrow,), ("sm86",)))


def test_what_cannot_be_built_is_refused_before_it_is_tried(rtx: TensorRTLibrary, tiny: Path) -> None:
    for target in ("sm90", "sm100"):
        with pytest.raises(
            TargetUnsupportedError, match=f"does not build for {target}; it builds for sm75, sm80"
        ):
            build_plan(rtx, BuildRequest(tiny, (PROFILE,), (target,)))
    wide = Profile(shapes={"x": ShapeRange(min=(1, 8), opt=(1, 8), max=(1, 8))})
    with pytest.raises(ProfileError, match=r"\(1, 8\) for x: float32\[batch, 16\]"):
        build_plan(rtx, BuildRequest(tiny, (wide,), ("sm86",)))


def test_a_build_calls_nothing_that_the_library_is_about_to_drop(rtx: TensorRTLibrary, tiny: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_plan(rtx, BuildRequest(tiny, (PROFILE,), TARGETS))


_BUILD = """
import sys
from pathlib import Path
from serving.engine.graph import ExportedGraph, prepare_graph
from serving.engine.tensorrt import BuildRequest, Profile, build_plan, load_library
from serving.engine.tensorrt.store import PlanStore
from serving.weights import WeightStore
import time

onnx, root, profile = Path(sys.argv[1]), Path(sys.argv[2]), Profile.model_validate_json(sys.argv[3])
library = load_library("tensorrt_rtx")
graph = ExportedGraph("tiny", lambda _: onnx, (profile,), {})
key = prepare_graph(graph, "fp32", WeightStore(root / "cache")).key(library, ("sm86",))

def hold(phase, done, steps):
    print(phase, flush=True)
    time.sleep(600)

PlanStore(root).obtain(key, lambda _: build_plan(library, BuildRequest(onnx, (profile,), ("sm86",)), on_step=hold))
"""


def test_a_process_killed_inside_the_builder_leaves_a_store_that_works(
    rtx: TensorRTLibrary, tiny: Path, tmp_path: Path
) -> None:
    root = tmp_path / "plans"
    command = [sys.executable, "-c", _BUILD, str(tiny), str(root), PROFILE.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip(), "the builder never told of a phase"
        process.send_signal(signal.SIGKILL)
    store = PlanStore(root)
    assert store.list() == ()
    graph = ExportedGraph("tiny", lambda _: tiny, (PROFILE,), {})
    key = prepare_graph(graph, "fp32", WeightStore(root / "cache")).key(rtx, ("sm86",))
    plan = store.obtain(key, lambda _: build_plan(rtx, BuildRequest(tiny, (PROFILE,), ("sm86",))))
    assert store.find(key) == plan
    assert list((root / "partial").iterdir()) == []


def test_convolutions_build_in_bfloat16_whatever_the_version_of_the_operator(
    rtx: TensorRTLibrary, tmp_path: Path
) -> None:
    """Before version 22 ONNX knows no bfloat16 convolution; the parser takes it all the same."""
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    sizes = ShapeRange(min=(1, 3, 16, 16), opt=(2, 3, 16, 16), max=(4, 3, 16, 16))
    for opset in (11, 17, 22):
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "k"], ["a"]), helper.make_node("Relu", ["a"], ["y"])],
            "conv",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 16])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(kernel, "k")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        path = tmp_path / f"conv{opset}.onnx"
        onnx.save(model, str(path))
        (exported,) = own_graphs(path, ranges={"x": [sizes]}, max_batch=4)
        told = check_graph(exported, "bf16", rtx, ("sm86",), WeightStore(tmp_path / "cache"))
        assert told["error"] == ""
        assert told["built"]
        assert told["max_rel_diff_onnx"] is not None
        assert 1e-5 < told["max_rel_diff_onnx"] < 2e-2


def test_a_wrong_graph_leaves_nothing_in_the_store(rtx: TensorRTLibrary, tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Foo", ["a"], ["y"])]
    odd = save(tmp_path / "odd.onnx", nodes, axes=["batch", WIDTH])
    graph = ExportedGraph("odd", lambda _: odd, (PROFILE,), {})
    key = prepare_graph(graph, "fp32", WeightStore(tmp_path / "cache")).key(rtx, ("sm86",))
    store = PlanStore(tmp_path / "plans")
    with pytest.raises(GraphRefusedError, match="Foo"):
        store.obtain(key, lambda _: build_plan(rtx, BuildRequest(odd, (PROFILE,), ("sm86",))))
    assert store.list() == ()
    assert [path for path in store.root.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def noise(shapes: Mapping[str, tuple[int, ...]], count: int = 3) -> Calibration:
    """Inputs uniform in [0, 1), as `difference` takes them."""

    def samples() -> Iterator[Mapping[str, Tensor]]:
        for seed in range(count):
            rng = np.random.default_rng(seed)
            yield {name: rng.random((1, *shape[1:]), np.float32) for name, shape in shapes.items()}

    return Calibration(samples, f"noise {count}")


# Of the output's largest value, against float32 in ONNX Runtime. Both factors of a product are rounded, in float8 each
# by a sixteenth at most.
EIGHT_BITS: list[tuple[Precision, str, float]] = [("int8", "sm80", 0.02), ("fp8", "sm89", 0.125)]


@pytest.mark.parametrize(("precision", "target", "tolerance"), EIGHT_BITS)
def test_products_in_eight_bits_build(
    rtx: TensorRTLibrary, tiny: Path, tmp_path: Path, precision: Precision, target: str, tolerance: float
) -> None:
    graph = ExportedGraph("tiny", lambda _: tiny, (PROFILE,), {"x": (2, WIDTH)})
    told = check_graph(
        graph,
        precision,
        rtx,
        (target,),
        WeightStore(tmp_path / "cache"),
        calibration=lambda _: noise(graph.sample),
    )
    assert told["error"] == ""
    assert told["built"]
    assert told["max_rel_diff_onnx"] is not None
    assert 1e-4 < told["max_rel_diff_onnx"] < tolerance


def test_a_graph_that_eight_bits_are_not_for_is_told_and_the_others_go_on(
    rtx: TensorRTLibrary, tmp_path: Path
) -> None:
    rectified = save(tmp_path / "relu.onnx", [helper.make_node("Relu", ["x"], ["y"])], axes=["batch", WIDTH])
    graph = ExportedGraph("relu", lambda _: rectified, (PROFILE,), {"x": (2, WIDTH)})
    told = check_graph(
        graph,
        "fp8",
        rtx,
        ("sm89",),
        WeightStore(tmp_path / "cache"),
        calibration=lambda _: noise(graph.sample),
    )
    assert told["error"] == "relu.onnx: nothing in it to quantise to fp8, which is for MatMul, Gemm"
    assert told["built"] is None


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "target"), [("int8", "sm80"), ("fp8", "sm89")])
@pytest.mark.parametrize("name", ["eomt-tiny", "owlv2-tiny-image"])
def test_an_experts_graph_builds_in_eight_bits(
    rtx: TensorRTLibrary, tmp_path: Path, name: str, precision: Precision, target: str
) -> None:
    """Random weights have no margins between classes, so what eight bits cost is seen whole."""
    (graph,) = [graph for graph in GRAPHS if graph.name == name]
    told = check_graph(
        graph, precision, rtx, (target,), WeightStore(), calibration=lambda _: noise(graph.sample)
    )
    assert told["error"] == ""
    assert told["built"]
    assert told["max_rel_diff_onnx"] is not None
    assert 1e-3 < told["max_rel_diff_onnx"] < {"int8": 0.2, "fp8": 0.4}[precision]


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_real_graph_builds_for_every_architecture(rtx: TensorRTLibrary, precision: Precision) -> None:
    (graph,) = [graph for graph in GRAPHS if graph.name == "yolo26n"]
    # bfloat16 is an extra: one architecture says that it builds.
    targets = TARGETS if precision != "bf16" else TARGETS[1:2]
    told = check_graph(graph, precision, rtx, targets, WeightStore())
    assert told["error"] == ""
    assert told["built"]
    assert told["max_rel_diff_onnx"] is not None
    assert told["max_rel_diff_onnx"] < {"fp32": 1e-5, "fp16": 2e-2, "bf16": 1e-1}[precision]
