"""`polysight evaluate coco-probes` and `benchmarks` against a gateway among dummies: what they print and leave."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.dummy_mesh import DummyMesh, free_port
from cli.evaluate import app

FIXTURES = Path(__file__).parent.parent / "unit" / "llm_server" / "evaluation" / "benchmarks" / "data"


@pytest.fixture
async def gateway() -> AsyncIterator[str]:
    """The address of a gateway whose language model always says yes."""
    port = free_port()
    async with DummyMesh(port=port) as mesh:
        mesh.llm.say = lambda request: "Yes."
        yield f"127.0.0.1:{port}"


async def command(*arguments: str, code: int = 0) -> dict[str, Any]:
    """The JSON object on the last line of `polysight evaluate ...`."""
    ran = await asyncio.to_thread(CliRunner().invoke, app, list(arguments))
    assert ran.exit_code == code, ran.output
    told = json.loads(ran.stdout.splitlines()[-1])
    assert isinstance(told, dict)
    return told


def street(folder: Path) -> tuple[str, ...]:
    """A picture of one bus, one person and one car that the dummies see, and its annotation, as arguments."""
    Image.new("RGB", (100, 100)).save(folder / "1.png")
    names = ("person", "bus", "car", "dog")
    told = {
        "images": [{"id": 1, "file_name": "1.png", "width": 100, "height": 100}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
        "annotations": [{"image_id": 1, "category_id": k, "bbox": [25 * k, 0, 20, 20]} for k in range(3)],
    }
    (folder / "instances.json").write_text(json.dumps(told))
    return "--images", str(folder), "--annotations", str(folder / "instances.json")


async def test_coco_probes(gateway: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("coco-probes", *street(tmp_path), "--gateway", gateway, "--out", str(out), "--json")
    told = await command(*arguments)
    # Three of the categories are there and one is not; the dummies see three of each.
    assert told["existence"] == told["base"]["existence"] == 0.75
    assert (told["count"], told["class_to_box"], told["box_to_class"]) == (0.0, 0.0, 0.0)
    assert told["perfect_reader"] == {
        "existence": 1.0, "count": 0.0, "class_to_box": 0.5, "box_to_class": 1.0,
    }  # fmt: skip
    assert told["n"] == {
        "existence": 4, "count": 3, "class_to_box": 3, "box_to_class": 3,
        "pope_random": 4, "pope_popular": 4, "pope_adversarial": 4,
    }  # fmt: skip
    assert json.loads((out / "report.json").read_text()) == told
    page = (out / "report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert "a perfect reader says" in page
    assert len((out / "records.jsonl").read_text().splitlines()) == 2 * 25
    again = await command(*arguments)
    assert again["reused"] == 2 * 25 - 2
    assert {key: again[key] for key in told if key != "reused"} == {
        key: told[key] for key in told if key != "reused"
    }


async def test_a_gateway_that_is_not_there_ends_with_one(tmp_path: Path) -> None:
    arguments = ["coco-probes", *street(tmp_path), "--gateway", "127.0.0.1:1", "--no-pope", "--no-base"]
    ran = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert ran.exit_code == 1
    assert "nothing serves at 127.0.0.1:1" in ran.output


@pytest.mark.parametrize(
    "more", [("--form", "free"), ("--kinds", "colour"), ("--experts", "oracle"), ("--annotations", __file__)]
)
async def test_what_makes_no_sense_is_said(tmp_path: Path, more: tuple[str, str]) -> None:
    arguments = ["coco-probes", *street(tmp_path), "--gateway", "127.0.0.1:1", *more]
    ran = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert ran.exit_code == 2


async def test_a_benchmark(gateway: str, tmp_path: Path) -> None:
    data = tmp_path / "pope"
    shutil.copytree(FIXTURES / "pope", data)
    (data / "val2014").mkdir()
    Image.new("RGB", (64, 48)).save(data / "val2014" / "COCO_val2014_000000000001.jpg")
    told = await command(
        "benchmarks",
        "pope",
        "--data",
        str(data),
        "--gateway",
        gateway,
        "--out",
        str(tmp_path / "out"),
        "--json",
    )
    assert told["measured"]["adapters"]["accuracy"] == 50.0
    assert told["measured"]["adapters"]["random_recall"] == 100.0
    assert told["published"]["accuracy"] == {"CoLLaVO-7B": 87.2, "MoAI-7B": 87.1}
    assert (told["n"], told["partial"], told["graded"]) == (6, False, True)
    assert "POPE" in (tmp_path / "out" / "report.html").read_text()


async def test_a_benchmark_that_is_graded_elsewhere_is_exported(gateway: str, tmp_path: Path) -> None:
    data = tmp_path / "mm-vet"
    shutil.copytree(FIXTURES / "mm-vet", data)
    (data / "images").mkdir()
    Image.new("RGB", (64, 48)).save(data / "images" / "v1_0.png")
    told = await command(
        "benchmarks", "mm-vet", "--data", str(data), "--gateway", gateway, "--out", str(tmp_path), "--json"
    )
    assert (told["graded"], told["export"]) == (False, str(tmp_path / "mm-vet.json"))
    assert json.loads((tmp_path / "mm-vet.json").read_text()) == {"v1_0": "Yes."}


async def test_a_benchmark_without_data_says_where_to_put_it(tmp_path: Path) -> None:
    told = await command("benchmarks", "mme", "--data", str(tmp_path), "--json", code=2)
    assert str(tmp_path) in told["error"]
    assert "MME_Benchmark_release_version" in told["error"]


async def test_benchmarks_are_listed() -> None:
    told = await command("benchmarks", "--json")
    assert len(told) == 14
    assert told["gqa"]["files"] == ["testdev_balanced_questions.json", "images/<imageId>.jpg"]
