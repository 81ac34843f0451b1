"""`polysight engines build --onnx`: a file of one's own, from the command line to the plan that a server finds; and
what is left in the store when it goes wrong."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

from cli.engines import app
from cli.engines_onnx import own_graphs, parse_shapes
from serving.engine import EngineError
from serving.engine.selection import own_file
from serving.engine.tensorrt import PlanAbsentError, PlanMismatchError, ShapeRange
from serving.engine.tensorrt.plan import graph_digest
from serving.engine.tensorrt.store import PLAN, PlanStore

WIDTH = 16
SHAPE = f"x=1x{WIDTH}:4x{WIDTH}:8x{WIDTH}"


def save(
    path: Path, axes: tuple[str | int, ...] = ("batch", WIDTH), *, operator: str = "Relu", seed: int = 0
) -> Path:
    """y = operator(x · w)."""
    weights = np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node(operator, ["a"], ["y"])],
        "own",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Casts go to a cache of the test's own."""
    monkeypatch.setenv("POLYSIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return save(tmp_path / "my-network.onnx")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def said(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


def last_line(result: Result) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return told


def files_under(root: Path) -> list[str]:
    """Everything but lock files."""
    return sorted(str(path) for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_an_input_free_in_its_batch_alone_needs_no_shape(own: Path) -> None:
    (graph,) = own_graphs(own, ranges={}, max_batch=6)
    assert graph.name == "my-network"
    assert graph.file == str(own.resolve())
    (profile,) = graph.profiles
    assert profile.shapes["x"] == ShapeRange(min=(1, WIDTH), opt=(3, WIDTH), max=(6, WIDTH))
    assert profile.accepts(dict(graph.sample))


def test_an_input_named_twice_makes_two_profiles(tmp_path: Path) -> None:
    free = save(tmp_path / "free.onnx", ("batch", "rows", WIDTH))
    ranges = parse_shapes([f"x=1x1x{WIDTH}:2x2x{WIDTH}:8x4x{WIDTH}", f"x=1x5x{WIDTH}"])
    (graph,) = own_graphs(free, name="other", ranges=ranges, max_batch=8)
    assert graph.name == "other"
    assert [profile.shapes["x"].max for profile in graph.profiles] == [(8, 4, WIDTH), (1, 5, WIDTH)]


def test_a_network_without_free_axes_is_built_as_it_is(tmp_path: Path) -> None:
    (graph,) = own_graphs(save(tmp_path / "fixed.onnx", (3, WIDTH)), ranges={}, max_batch=8)
    assert graph.profiles[0].shapes["x"] == ShapeRange(min=(3, WIDTH), opt=(3, WIDTH), max=(3, WIDTH))


def test_every_graph_of_a_folder_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    with pytest.raises(EngineError, match=r"no \.onnx file in it"):
        own_graphs(folder, ranges={}, max_batch=8)
    for name in ("b", "a"):
        save(folder / f"{name}.onnx")
    assert [graph.name for graph in own_graphs(folder, ranges={}, max_batch=8)] == ["a", "b"]
    with pytest.raises(EngineError, match="--name is for one file"):
        own_graphs(folder, name="c", ranges={}, max_batch=8)


def test_the_halves_of_an_owlv2_folder_are_called_as_its_server_calls_them(tmp_path: Path) -> None:
    from services.detection.owlv2.bundle import IMAGE, SHEET, TEXT

    folder = tmp_path / "owl"
    folder.mkdir()
    (folder / SHEET).write_text("{}")
    for file in (IMAGE, TEXT):
        save(folder / file)
    image, text = own_graphs(folder, ranges={}, max_batch=8)
    assert (image.name, text.name) == ("owl-image", "owl-text")
    assert (image.profiles[0].max_batch, text.profiles[0].max_batch) == (8, 64)


def test_graphs_of_ones_own_are_those_outside_the_cache(own: Path, cache: Path) -> None:
    assert own_file(own, cache) == own.resolve()
    assert own_file(cache / "derived" / "ab" / "yolo26n.onnx", cache) is None


@pytest.mark.parametrize(
    ("axes", "arguments", "exit_code", "why"),
    [
        (("batch", "wide"), (), 1, "--shape x=BATCHxWIDE:BATCHxWIDE:BATCHxWIDE"),
        (("batch", WIDTH), ("--shape", "z=1x16"), 1, "has no input z; it takes x: float32[batch, 16]"),
        (("batch", WIDTH), ("--shape", "x"), 1, "write NAME="),
        (("batch", WIDTH), ("--shape", "x=1x16:1x16"), 1, "is no range of shapes"),
        (("batch", WIDTH), ("--shape", "x=1x8"), 1, "the profile has (1, 8) for x"),
        (("batch", WIDTH), ("--name", "no/name"), 1, "cannot be a plan's name"),
        (("batch", WIDTH), ("--max-batch", "0"), 2, "--max-batch"),
        (("batch", WIDTH), ("yolo26n",), 2, "either graphs of the table (yolo26n) or --onnx"),
    ],
)
def test_what_is_typed_wrongly_is_named(
    tmp_path: Path, axes: tuple[str | int, ...], arguments: tuple[str, ...], exit_code: int, why: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    own = save(tmp_path / "own.onnx", axes)
    result = run(
        "build", "--onnx", str(own), "--targets", "sm86", *arguments, "--store", str(tmp_path / "plans")
    )
    assert result.exit_code == exit_code
    assert why in said(result)
    assert files_under(tmp_path / "plans") == []


def test_shapes_without_a_file_are_refused() -> None:
    pytest.importorskip("tensorrt_rtx")
    result = run("build", "--shape", SHAPE, "--targets", "sm86")
    assert result.exit_code == 2
    assert "for the graph of --onnx" in said(result)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_plan_of_ones_own_graph_is_the_one_a_server_asks_for(
    own: Path, tmp_path: Path, precision: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    store = PlanStore(tmp_path / "plans")
    arguments = ("--onnx", str(own), "--shape", SHAPE, "--targets", "sm86", "--precisions", precision)
    (plan,) = last_line(run("build", *arguments, "--store", str(store.root), "--json"))["plans"]
    here = {
        "onnx_sha256": graph_digest(own),
        "library": "tensorrt_rtx",
        "version": plan["library_version"],
        "file": own,
    }
    found = store.select(own.stem, precision, **here, target="sm86")
    assert found.digest == plan["digest"]
    assert found.sidecar.key.profiles[0].shapes["x"] == ShapeRange(
        min=(1, WIDTH), opt=(4, WIDTH), max=(8, WIDTH)
    )

    # For another GPU: the command that is named builds what is missing.
    with pytest.raises(PlanMismatchError) as refused:
        store.select(own.stem, precision, **here, target="sm89")
    words = shlex.split(refused.value.command)
    assert words[:5] == ["polysight", "engines", "build", "--onnx", str(own)]
    assert run(*words[2:], "--store", str(store.root)).exit_code == 0
    assert store.select(own.stem, precision, **here, target="sm89").digest != plan["digest"]

    # The file is another now: no old plan is taken for it.
    save(own, seed=1)
    with pytest.raises(PlanMismatchError, match="from graph"):
        store.select(own.stem, precision, **here | {"onnx_sha256": graph_digest(own)}, target="sm86")


def test_without_a_plan_the_command_names_the_file(own: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanAbsentError) as absent:
        PlanStore(tmp_path / "plans").select(
            own.stem,
            "fp16",
            onnx_sha256=graph_digest(own),
            library="tensorrt_rtx",
            version="1.7",
            target="sm86",
            file=own,
        )
    pytest.importorskip("tensorrt_rtx")
    words = shlex.split(absent.value.command)
    assert words[3:5] == ["--onnx", str(own)]
    assert run(*words[2:], "--store", str(tmp_path / "plans")).exit_code == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("content", [b"no graph", b""])
def test_a_file_that_is_no_graph_is_refused_and_the_store_is_clean(
    tmp_path: Path, precision: str, content: bytes
) -> None:
    pytest.importorskip("tensorrt_rtx")
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(content)
    plans = tmp_path / "plans"
    arguments = ("--onnx", str(junk), "--shape", SHAPE, "--targets", "sm86", "--precisions", precision)
    result = run("build", *arguments, "--store", str(plans))
    assert result.exit_code == 1
    assert "cannot be read as an ONNX graph" in said(result)
    assert files_under(plans) == []


def test_an_operator_nobody_knows_is_named_and_the_store_is_clean(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    odd, plans = save(tmp_path / "odd.onnx", operator="Foo"), tmp_path / "plans"
    arguments = ("--onnx", str(odd), "--targets", "sm86", "--precisions", "fp32", "--store", str(plans))
    result = run("build", *arguments)
    assert result.exit_code == 1
    assert "Foo" in said(result)
    assert files_under(plans) == []


def test_plans_without_weights_need_a_driver(own: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from serving.engine.tensorrt.gpu import present_gpus

    if present_gpus():
        pytest.skip("there is a driver")
    plans = tmp_path / "plans"
    result = run("build", "--onnx", str(own), "--targets", "sm86", "--stripped", "--store", str(plans))
    assert result.exit_code == 1
    assert "with the driver of a GPU" in said(result)
    assert files_under(plans) == []


def polysight(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    command = [sys.executable, "-c", "from cli.main import main; main()", "engines", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ), **options
    )


def small_files() -> None:
    """In the child: no file may grow beyond 1 KiB, and trying is an error instead of a signal."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**10, 2**10))


def test_a_real_file_system_that_refuses_the_plan_is_a_clear_error_and_a_clean_store(
    own: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    plans = tmp_path / "plans"
    arguments = ("--onnx", str(own), "--targets", "sm86", "--precisions", "fp32", "--store", str(plans))
    with polysight("build", *arguments, preexec_fn=small_files) as process:
        _, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "no room for a plan of" in " ".join(told.split())
    assert "nothing was left behind" in " ".join(told.split())
    assert files_under(plans) == []
    assert run("build", *arguments).exit_code == 0


@pytest.mark.parametrize("moment", ["lock", "partial"])
def test_the_command_killed_while_it_builds_leaves_a_store_that_works(
    own: Path, tmp_path: Path, moment: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    plans = tmp_path / "plans"
    arguments = ("--onnx", str(own), "--targets", "sm86", "--precisions", "fp32", "--store", str(plans))
    sign = {"lock": "locks/*.lock", "partial": "partial/*"}[moment]
    with polysight("build", *arguments) as process:
        # Killed as soon as the build has begun, or its plan has begun to arrive (or is there, if that was quicker).
        while process.poll() is None and not list(plans.glob(sign)) and not list(plans.glob("plans/*")):
            pass
        process.send_signal(signal.SIGKILL)
    assert run("verify", "--store", str(plans)).exit_code == 0
    assert not list((plans / "partial").glob("*"))
    (plan,) = last_line(run("build", *arguments, "--json"))["plans"]
    assert [found.digest for found in PlanStore(plans).list()] == [plan["digest"]]
    assert (plans / "plans" / plan["digest"] / PLAN).stat().st_size == plan["bytes"]
