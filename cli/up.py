"""`polysight up`: the whole mesh on this machine, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from cli.connection import JsonOption
from cli.mesh import PROCESSES, Mesh, MeshError
from cli.weights import prepare
from serving.weights import WeightStore


def fetch_all(console: Console) -> None:
    """Everything the mesh reads from disk, so that no process fetches while it starts."""
    store = WeightStore()
    names = [info.name for info in store.list()]
    store.fetch_many(names)
    prepare(store, names, console)


def up(
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Free ports instead of the usual ones.")
    ] = False,
    metrics: Annotated[bool, typer.Option(help="Prometheus metrics at each port + 1000.")] = True,
    log_dir: Annotated[Path, typer.Option(help="Folder for one log file per process.")] = Path("run/logs"),
    as_json: JsonOption = False,
) -> None:
    """Fetches weights if they are missing, starts the six processes and keeps them until Ctrl-C or SIGTERM."""
    console = Console(stderr=True)
    fetch_all(console)

    def ready(name: str, seconds: float) -> None:
        console.print(f"[green]✓[/] {name:<11} ready after {seconds:.1f} s", highlight=False)

    mesh = (
        Mesh.on_free_ports(log_dir, metrics=metrics, on_ready=ready)
        if free_ports
        else Mesh(log_dir, metrics=metrics, on_ready=ready)
    )
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        mesh.start()
    except MeshError as error:
        console.print(f"[red]{error}[/]", highlight=False)
        raise typer.Exit(1) from error
    if as_json:
        addresses = {spec.name: mesh.address(spec.name) for spec in PROCESSES}
        print(json.dumps({"gateway": mesh.gateway_address, "processes": addresses}), flush=True)
    console.print(f"the mesh is up; its gateway is at [bold]{mesh.gateway_address}[/]. Ctrl-C stops it.")
    failed = False
    while not stopping and not failed:
        time.sleep(0.2)
        for process in mesh.dead():
            console.print(
                f"[red]{process.spec.name} died; its log ends:[/]\n{process.log_tail()}", markup=True
            )
            failed = True
    codes = mesh.stop()
    console.print("stopped: " + ", ".join(f"{name} {code}" for name, code in codes.items()), highlight=False)
    sys.exit(1 if failed or any(codes.values()) else 0)
