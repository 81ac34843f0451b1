"""The manifests are what Kubernetes accepts, and say the same as the processes, the contract and the Containerfile."""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cli.mesh import EXPERTS, GATEWAY, LLM_SERVER, PROCESSES, ProcessSpec

ROOT = Path(__file__).resolve().parents[3]
VERSIONS = tuple(f"1.{minor}" for minor in range(29, 38))
METRICS_OFFSET = 1000

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def objects() -> list[Manifest]:
    """The base as kustomize builds it."""
    built = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "k8s" / "base")], check=True, capture_output=True, text=True
    )
    return list(yaml.safe_load_all(built.stdout))


def _named(objects: list[Manifest], kind: str, name: str) -> Manifest:
    return next(one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name)


def _kubernetes_name(spec: ProcessSpec) -> str:
    return spec.name.replace("_", "-")


def _container(deployment: Manifest) -> Manifest:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_strictly(objects: list[Manifest], version: str) -> None:
    assert len(objects) == 2 * len(PROCESSES)
    for one in objects:
        kubernetes_validate.validate(one, version, strict=True)


def _misspell_probe(deployment: Manifest) -> None:
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["readinesProbe"] = container.pop("readinessProbe")


def _text_port(deployment: Manifest) -> None:
    deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = "50061"


def _no_selector(deployment: Manifest) -> None:
    del deployment["spec"]["selector"]


def _unknown_strategy_field(deployment: Manifest) -> None:
    deployment["spec"]["strategy"]["maxSurge"] = 1


@pytest.mark.parametrize(
    "plant",
    [_misspell_probe, _text_port, _no_selector, _unknown_strategy_field],
    ids=lambda plant: plant.__name__,
)
@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_planted_errors_are_caught(
    objects: list[Manifest], plant: Callable[[Manifest], None], version: str
) -> None:
    deployment = copy.deepcopy(_named(objects, "Deployment", "panoptic"))
    plant(deployment)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, version, strict=True)


@pytest.mark.parametrize("spec", PROCESSES, ids=lambda spec: spec.name)
def test_deployment_and_process_agree(objects: list[Manifest], spec: ProcessSpec) -> None:
    name = _kubernetes_name(spec)
    deployment = _named(objects, "Deployment", name)
    container = _container(deployment)
    assert container["image"] == f"polysight/{name}:0.1.0"
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "grpc": spec.port,
        "metrics": spec.port + METRICS_OFFSET,
    }
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment[f"{spec.env_prefix}PORT"] == str(spec.port)
    assert environment[f"{spec.env_prefix}METRICS_PORT"] == str(spec.port + METRICS_OFFSET)
    service = _named(objects, "Service", name)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("spec", PROCESSES, ids=lambda spec: spec.name)
def test_probes_ask_for_a_service_of_the_contract(objects: list[Manifest], spec: ProcessSpec) -> None:
    container = _container(_named(objects, "Deployment", _kubernetes_name(spec)))
    for probe in ("startupProbe", "readinessProbe"):
        grpc = container[probe]["grpc"]
        assert grpc["port"] == spec.port
        package, _, service = grpc["service"].rpartition(".")
        sources = (ROOT / "protos" / Path(*package.split("."))).glob("*.proto")
        assert any(re.search(rf"^service {service} ", source.read_text(), re.M) for source in sources)


@pytest.mark.parametrize("spec", PROCESSES, ids=lambda spec: spec.name)
def test_pods_are_restricted_and_bounded(objects: list[Manifest], spec: ProcessSpec) -> None:
    pod = _named(objects, "Deployment", _kubernetes_name(spec))["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}
    environment = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    drain = float(environment[f"{spec.env_prefix}DRAIN_PAUSE_S"]) + float(
        environment[f"{spec.env_prefix}DRAIN_GRACE_S"]
    )
    assert pod["terminationGracePeriodSeconds"] > drain + 10


def test_the_gateway_knows_every_address(objects: list[Manifest]) -> None:
    environment = {
        one["name"]: one["value"] for one in _container(_named(objects, "Deployment", GATEWAY.name))["env"]
    }
    for spec in (*EXPERTS, LLM_SERVER):
        name = _kubernetes_name(spec)
        assert environment[f"GATEWAY_{spec.name.upper()}_ADDRESS"] == f"dns:///{name}:{spec.port}"


@pytest.mark.parametrize("spec", PROCESSES, ids=lambda spec: spec.name)
def test_the_containerfile_has_a_target_for_it(spec: ProcessSpec) -> None:
    containerfile = (ROOT / "Containerfile").read_text()
    stage = re.search(
        rf"^FROM \w+ AS {_kubernetes_name(spec)}\n(?P<body>(?:(?!^FROM ).*\n)*)", containerfile, re.M
    )
    assert stage is not None
    assert f"EXPOSE {spec.port} {spec.port + METRICS_OFFSET}" in stage["body"]
    assert f'ENTRYPOINT ["python", "-m", "{spec.module}"]' in stage["body"]
