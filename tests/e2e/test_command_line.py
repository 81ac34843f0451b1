"""The commands as a person or a script runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cli.mesh import Mesh

pytestmark = pytest.mark.weights


def _polysight(*arguments: str, code: int = 0, timeout_s: float = 150) -> dict[str, Any]:
    """The JSON object on the last line of a command."""
    ran = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ran.returncode == code, ran.stderr[-3000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    assert isinstance(told, dict)
    return told


def test_ask_prints_one_json_object(mesh: Mesh, bus_jpg: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "bus.png"
    told = _polysight(
        "ask", str(bus_jpg), "What vehicle is in the picture?", "--gateway", mesh.gateway_address,
        "--picture", str(drawn), "--json",
    )  # fmt: skip
    assert "bus" in told["answer"].lower()
    assert {one["status"] for one in told["experts"]} == {"ok"}
    assert Image.open(drawn).size >= Image.open(bus_jpg).size


def test_perceive_asks_only_the_chosen_experts(mesh: Mesh, bus_jpg: Path) -> None:
    told = _polysight(
        "perceive", str(bus_jpg), "--experts", "detection,ocr", "--gateway", mesh.gateway_address, "--json"
    )
    statuses = {one["name"]: one["status"] for one in told["experts"]}
    assert statuses == {"panoptic": "skipped", "detection": "ok", "scene_graph": "skipped", "ocr": "ok"}


def test_nothing_listening_is_explained(bus_jpg: Path) -> None:
    told = _polysight("perceive", str(bus_jpg), "--gateway", "127.0.0.1:1", "--json", code=1)
    assert told["error"]["code"] == "UNAVAILABLE"


def test_doctor_looks_at_weights_and_services() -> None:
    told = _polysight("doctor", "--json")
    checks = {one["check"]: one["level"] for one in told["findings"]}
    assert told["healthy"] is True
    assert checks["weights yolo26n"] == "ok"
    assert checks["grpcio"] == "ok"


@pytest.mark.slow
def test_the_demo_answers_and_stops_everything(bus_jpg: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "demo.png"
    told = _polysight(
        "demo", str(bus_jpg), "How many people are in the picture?", "--picture", str(drawn), "--json"
    )
    assert set(told) >= {"answer", "verbalization", "experts", "ttft_ms", "total_ms", "picture"}
    assert "4" in told["answer"] or "four" in told["answer"].lower()
    assert all(set(one) >= {"name", "status", "ms"} for one in told["experts"])
    assert Path(told["picture"]).samefile(drawn)
