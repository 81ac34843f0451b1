"""The mesh through clients that are not ours: reflection with grpcurl, and Node.js with code made from the contract."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cli.mesh import PROCESSES, Mesh, ProcessSpec

pytestmark = pytest.mark.weights

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {
    "panoptic": "polysight.vision.v1.PanopticService",
    "detection": "polysight.vision.v1.DetectionService",
    "scene_graph": "polysight.vision.v1.SceneGraphService",
    "ocr": "polysight.vision.v1.OcrService",
    "llm_server": "polysight.llm.v1.GenerationService",
    "gateway": "polysight.gateway.v1.PolysightService",
}


def _grpcurl(*arguments: str, stdin: str = "") -> str:
    ran = subprocess.run(
        ["grpcurl", "-plaintext", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("spec", PROCESSES, ids=lambda spec: spec.name)
def test_reflection_names_every_service(mesh: Mesh, spec: ProcessSpec) -> None:
    listed = _grpcurl(mesh.address(spec.name), "list").split()
    assert SERVICES[spec.name] in listed
    assert "grpc.health.v1.Health" in listed
    described = _grpcurl(mesh.address(spec.name), "describe", SERVICES[spec.name])
    assert described.startswith(f"{SERVICES[spec.name]} is a service")


def test_grpcurl_perceives_through_reflection(mesh: Mesh, bus_jpg: Path) -> None:
    request = json.dumps({"image": {"data": base64.b64encode(bus_jpg.read_bytes()).decode()}})
    told = json.loads(
        _grpcurl("-d", "@", mesh.gateway_address, f"{SERVICES['gateway']}/Perceive", stdin=request)
    )
    assert {report["outcome"] for report in told["reports"]} == {"OUTCOME_OK"}
    assert "bus" in told["verbalization"]["text"]


def test_node_asks_with_a_generated_client(mesh: Mesh, bus_jpg: Path) -> None:
    client = ROOT / "clients" / "node"
    npm = shutil.which("npm")
    assert npm is not None, "npm is not installed: the Node.js client cannot be tested"
    if not (client / "node_modules").is_dir():
        subprocess.run(
            [npm, "install", "--no-fund", "--no-audit", "--loglevel=error"],
            cwd=client,
            check=True,
            timeout=300,
        )
    subprocess.run([npm, "run", "--silent", "generate"], cwd=client, check=True, timeout=120)
    ran = subprocess.run(
        ["node", "ask.js", mesh.gateway_address, str(bus_jpg), "What vehicle is in the picture?"],
        cwd=client,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert "bus" in told["answer"].lower()
    assert told["experts"] == dict.fromkeys(("panoptic", "detection", "scene_graph", "ocr"), "ok")
    assert told["tokens"] > 0
