"""`polysight doctor`: is this machine fit to run the mesh, and is the mesh that runs on it well?"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec

import typer
from rich.console import Console

from cli.addresses import AddressOptions
from cli.connection import JsonOption
from cli.mesh import PROCESSES, is_serving
from serving.weights import WeightStore

LIBRARIES = (
    "grpcio",
    "protobuf",
    "numpy",
    "onnxruntime",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "ultralytics",
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `level`: ok, warning (it works, but), error (it will not work)."""

    check: str
    level: str
    told: str


def examine(host: str) -> Iterator[Finding]:
    """Looks at versions, processors, threads, weights, ports and every service."""
    yield _python()
    yield from _libraries()
    yield from _processors()
    yield _threads()
    yield from _weights()
    yield from _services(host)


def _python() -> Finding:
    fit = sys.version_info >= (3, 11)
    return Finding("python", "ok" if fit else "error", f"{platform.python_version()} ({platform.machine()})")


def _libraries() -> Iterator[Finding]:
    for name in LIBRARIES:
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            # Everything but the core comes with an extra.
            yield Finding(name, "warning", "not installed")


def _processors() -> Iterator[Finding]:
    yield Finding("cpu", "ok", f"{os.cpu_count()} cores")
    driver = shutil.which("nvidia-smi")
    yield Finding(
        "gpu", "ok" if driver else "warning", driver or "no NVIDIA driver: everything runs on the CPU"
    )
    tensorrt = find_spec("tensorrt") is not None
    yield Finding("tensorrt", "ok" if tensorrt else "warning", "installed" if tensorrt else "not installed")


def _threads() -> Finding:
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if policy.upper() == "ACTIVE":
        return Finding(
            "threads", "warning", "OMP_WAIT_POLICY=ACTIVE: processes that share cores starve one another"
        )
    told = (
        f"OMP_WAIT_POLICY={policy or 'unset (the mesh sets PASSIVE)'}, OMP_NUM_THREADS={threads or 'unset'}"
    )
    return Finding("threads", "ok", told)


def _weights() -> Iterator[Finding]:
    store = WeightStore()
    for info in store.list():
        cached = store.status(info.name).cached
        told = f"cached, {info.licence}" if cached else "not cached: `polysight weights fetch`"
        yield Finding(f"weights {info.name}", "ok" if cached else "warning", told)


def _services(host: str) -> Iterator[Finding]:
    for spec in PROCESSES:
        if not _listens(host, spec.port):
            yield Finding(
                spec.name, "warning", f"nothing listens at {host}:{spec.port}: `polysight up` starts it"
            )
        elif is_serving(f"{host}:{spec.port}"):
            yield Finding(spec.name, "ok", f"SERVING at {host}:{spec.port}")
        else:
            yield Finding(
                spec.name, "error", f"{host}:{spec.port} is taken, but what listens there is not SERVING"
            )


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def doctor(host: AddressOptions = "127.0.0.1", as_json: JsonOption = False) -> None:
    """Checks this machine and reaches every service. Exit code 1 if something will not work."""
    findings = list(examine(host))
    console = Console(stderr=as_json)
    marks = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}
    for finding in findings:
        console.print(f"{marks[finding.level]} {finding.check:<34} {finding.told}", highlight=False)
    healthy = all(finding.level != "error" for finding in findings)
    if as_json:
        print(json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in findings]}))
    if not healthy:
        raise typer.Exit(1)
