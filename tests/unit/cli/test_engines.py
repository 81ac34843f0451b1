"""`polysight engines` as it is typed: exit codes, the last line, and what is said when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.engines import app
from cli.graphs import GRAPHS
from serving.engine import TensorSpec
from serving.engine.tensorrt import Built, PlanKey, Profile, ShapeRange
from serving.engine.tensorrt.store import PLAN, PlanStore

PROFILE = Profile(shapes={"x": ShapeRange(min=(1, 4), opt=(2, 4), max=(8, 4))})


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def last_line(result: Result) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return told


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    """One plan of a graph called tiny."""
    key = PlanKey(
        graph="tiny",
        onnx_sha256="a" * 64,
        precision="fp16",
        library="tensorrt_rtx",
        library_version="1.7",
        targets=("sm86", "sm89"),
        profiles=(PROFILE,),
    )
    specs = (TensorSpec("x", ("batch", 4), "float32"),)
    store = PlanStore(tmp_path / "plans")
    store.obtain(key, lambda _: Built(b"plan", specs, specs, "", 1.25, b""))
    return store


def test_list_tells_plans_and_engines(store: PlanStore) -> None:
    result = run("list", "--store", str(store.root), "--json")
    assert result.exit_code == 0
    told = last_line(result)
    (plan,) = told["plans"]
    assert (plan["graph"], plan["precision"], plan["targets"]) == ("tiny", "fp16", ["sm86", "sm89"])
    assert (plan["bytes"], plan["seconds"]) == (4, 1.25)
    assert "onnxruntime-cpu" in [backend["name"] for backend in told["backends"]]
    assert "tiny" in run("list", "--store", str(store.root)).stdout


def test_verify_finds_the_damaged_and_then_nothing(store: PlanStore) -> None:
    assert run("verify", "--store", str(store.root)).exit_code == 0
    (plan,) = store.list()
    (plan.path.parent / PLAN).write_bytes(b"torn")
    result = run("verify", "--store", str(store.root), "--json")
    assert result.exit_code == 1
    assert list(last_line(result)["damaged"]) == [plan.digest]
    again = run("verify", "--store", str(store.root), "--json")
    assert again.exit_code == 0
    assert last_line(again)["sound"] == []


def test_plans_are_pushed_and_pulled(store: PlanStore, tmp_path: Path) -> None:
    there, other = str(tmp_path / "there"), str(tmp_path / "other")
    pushed = run("push", there, "--store", str(store.root), "--json")
    assert pushed.exit_code == 0
    pulled = run("pull", there, "--store", other, "--json")
    assert pulled.exit_code == 0
    assert last_line(pushed)["moved"] == last_line(pulled)["moved"] == [store.list()[0].digest]
    assert run("pull", str(tmp_path / "nowhere"), "--store", other).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("build", "nosuch", "--targets", "sm86"), 2, "no graph nosuch"),
        (("build", "yolo26n", "--targets", "ampere"), 1, "names no GPU architecture"),
        (("check", "--targets", "sm90"), 1, "does not build for sm90"),
        (("check", "--precisions", "fp7"), 2, "none of fp32, fp16, bf16"),
        (("check", "--library", "openvino"), 2, "none of auto, tensorrt, tensorrt_rtx"),
        (("check", "--graph", "nosuch"), 2, "no graph nosuch"),
    ],
)
def test_what_is_typed_wrongly_is_named(arguments: tuple[str, ...], exit_code: int, said: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    result = run(*arguments)
    assert result.exit_code == exit_code
    assert said in " ".join(result.output.replace("│", " ").split())


def test_the_table_of_graphs_is_consistent() -> None:
    assert len({graph.name for graph in GRAPHS}) == len(GRAPHS)
    for graph in GRAPHS:
        assert any(profile.accepts(dict(graph.sample)) for profile in graph.profiles), graph.name


@pytest.mark.weights
def test_build_keeps_what_check_only_tries(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    arguments = ("ppocr-cls", "--targets", "sm86", "--precisions", "fp16", "--store", str(tmp_path), "--json")
    first = last_line(run("build", *arguments))
    (plan,) = first["plans"]
    assert (plan["graph"], plan["targets"], plan["library"]) == ("ppocr-cls", ["sm86"], "tensorrt_rtx")
    again = run("build", *arguments)
    assert last_line(again) == first
    checked = run("check", "--graph", "ppocr-cls", "--targets", "sm86", "--precisions", "fp16", "--json")
    assert checked.exit_code == 0
    row = last_line(checked)["graphs"]["ppocr-cls-fp16"]
    assert row["parsed"]
    assert row["built"]
    assert row["bytes"] > 100_000
    assert 0 < row["max_abs_diff_onnx"] < 0.05
    assert len(PlanStore(tmp_path).list()) == 1
