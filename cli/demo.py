"""`polysight demo`: starts a mesh of its own, asks one question about one picture, shows everything, stops it.

`scripts/demo` installs what this needs and calls it.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli import picture, report
from cli.ask import Conversation, answer_request, converse
from cli.connection import JsonOption, channel_to, fail, read_image
from cli.mesh import PROCESSES, Mesh, MeshError
from cli.up import fetch_all
from polysight.gateway.v1 import polysight_pb2 as gateway_pb2

EXAMPLE = Path(__file__).resolve().parent.parent / "tests" / "assets" / "photos" / "000000252219.jpg"


def demo(
    image: Annotated[Path, typer.Argument(help="A picture; without one, a street from COCO.")] = EXAMPLE,
    question: Annotated[
        str, typer.Argument(help="What you want to know.")
    ] = "How many people are in the picture?",
    picture_path: Annotated[
        Path | None, typer.Option("--picture", help="Where the annotated picture goes.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answers one question with a mesh that lives as long as the question. Exit code 0 only if all went well."""
    console = Console(stderr=as_json)
    data = read_image(image)
    fetch_all(console)
    log_dir = Path(tempfile.mkdtemp(prefix="polysight-demo-"))
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        tasks = {spec.name: progress.add_task(f"starting {spec.name}", total=1) for spec in PROCESSES}

        def ready(name: str, _seconds: float) -> None:
            progress.update(tasks[name], description=f"[green]{name} is ready[/]", completed=1)

        started = time.monotonic()
        mesh = Mesh.on_free_ports(log_dir, on_ready=ready)
        try:
            mesh.start()
        except MeshError as error:
            console.print(f"[red]{error}[/]", highlight=False)
            raise typer.Exit(1) from error
    console.print(f"six processes are up after {time.monotonic() - started:.1f} s; their logs: {log_dir}\n")
    try:
        with channel_to(mesh.gateway_address) as channel:
            console.print(f"[bold]{question}[/]\n", highlight=False)
            told = converse(channel, answer_request(data, question), console, timeout_s=120.0)
    except grpc.RpcError as error:
        fail(error, mesh.gateway_address, as_json=as_json)
    finally:
        codes = mesh.stop()
    place = picture_path or Path(f"{image.stem}.polysight.png").resolve()
    picture.annotate(data, told.reports, told.verbalization).save(place)
    console.print(report.timing_table(told.reports, told.done))
    console.print(f"picture: {place}", highlight=False)
    faults = _faults(told, codes)
    for fault in faults:
        console.print(f"[red]{fault}[/]", highlight=False)
    if as_json:
        print(json.dumps(told.as_dict() | {"picture": str(place)}, ensure_ascii=False))
    if faults:
        raise typer.Exit(1)


def _faults(told: Conversation, codes: dict[str, int]) -> list[str]:
    """What did not go well, in words."""
    faults = [
        f"{report.EXPERT_NAMES[one.expert]} is missing from the answer: {one.status.message}"
        for one in told.reports
        if one.outcome not in {gateway_pb2.OUTCOME_OK, gateway_pb2.OUTCOME_SKIPPED}
    ]
    faults += [f"{name} ended with exit code {code}" for name, code in codes.items() if code != 0]
    if told.done is None or not told.answer:
        faults.append("the language model gave no answer")
    return faults
