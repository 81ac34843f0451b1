"""What evaluations through a gateway share: the gateway (running, or of its own), the progress bar, the results."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from cli.mesh import PROCESSES, Mesh, MeshError, is_serving
from cli.up import fetch_all
from llm_server.evaluation.harness.client import EXPERT_NAMES, GatewayClient
from llm_server.evaluation.harness.example import Condition, Example
from llm_server.evaluation.harness.record_file import RecordFile
from llm_server.evaluation.harness.runner import Failure, Run, Score, run
from llm_server.evaluation.harness.tables import Cell
from serving.channel import open_channel

RECORDS = "records.jsonl"

RunningGatewayOption = Annotated[
    str | None,
    typer.Option(
        "--gateway",
        envvar="POLYSIGHT_GATEWAY",
        help="host:port of a running gateway; without one, a mesh is started for the evaluation and stopped after it.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        file_okay=False,
        help="Folder for records, JSON and HTML; a later run with the same folder asks only what is not there yet. "
        "Without it: a new temporary folder.",
    ),
]
ConcurrencyOption = Annotated[int, typer.Option(min=1, help="Questions on their way at once.")]
ModelOption = Annotated[
    str, typer.Option("--model", help="Which language model; empty: the gateway's default.")
]
ExpertsChoice = Annotated[str, typer.Option("--experts", help="Such as panoptic,ocr; empty: all.")]
SecondsOption = Annotated[
    float, typer.Option("--timeout", min=1, help="Seconds until a question is given up.")
]


def expert_names(text: str) -> tuple[str, ...]:
    """The experts of a comma-separated list; raises typer.BadParameter for one that there is not."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = set(names) - set(EXPERT_NAMES.values())
    if unknown:
        known = ", ".join(EXPERT_NAMES.values())
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: there are {known}", param_hint="--experts")
    return names


def results_folder(out: Path | None, what: str) -> Path:
    """The folder for results, made if absent."""
    folder = out or Path(tempfile.mkdtemp(prefix=f"polysight-{what}-"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def gateway_or_mesh(address: str | None, logs: Path, console: Console) -> Iterator[str]:
    """The address of a gateway: the running one, or that of a mesh which lives as long as the context.

    Exits with code 1 and says why if nothing serves at the address, or the mesh does not come up.
    """
    if address:
        if not is_serving(address, timeout_s=10.0):
            console.print(
                f"[red]nothing serves at {address}[/]: start a mesh with `polysight up`", highlight=False
            )
            raise typer.Exit(1)
        yield address
        return
    fetch_all(console)
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

        mesh = Mesh.on_free_ports(logs, on_ready=ready)
        try:
            mesh.start()
        except MeshError as error:
            console.print(f"[red]{error}[/]", highlight=False)
            raise typer.Exit(1) from error
    try:
        yield mesh.gateway_address
    finally:
        mesh.stop()


def ask_all(
    address: str,
    examples: Sequence[Example],
    conditions: Sequence[Condition],
    *,
    score: Score,
    folder: Path,
    concurrency: int,
    timeout_s: float,
    console: Console,
) -> Run:
    """Asks every example under every condition, with a progress bar; records go to `folder`."""
    with Progress(
        TextColumn("asking"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        bar = progress.add_task("asking", total=len(examples) * len(conditions))

        async def asked() -> Run:
            channel = open_channel(address, max_attempts=1)
            try:
                client = GatewayClient(channel, timeout_s=timeout_s)
                return await run(
                    examples,
                    conditions,
                    ask=lambda image, question, condition, tokens: client.ask(
                        image, question, condition, max_new_tokens=tokens
                    ),
                    score=score,
                    records=RecordFile(folder / RECORDS),
                    concurrency=concurrency,
                    advance=lambda done: progress.advance(bar, done),
                )
            finally:
                await channel.close()

        return asyncio.run(asked())


def print_table(table: dict[str, dict[str, Cell]], title: str, console: Console) -> None:
    """Per cent with intervals, a row a group, a column a condition."""
    columns = list(dict.fromkeys(column for cells in table.values() for column in cells))
    shown = Table("", *columns, "n", title=title)
    for row, cells in table.items():
        count = max(cell.count for cell in cells.values())
        shown.add_row(row, *(str(cells[column]) if column in cells else "" for column in columns), str(count))
    console.print(shown)


def print_failures(failures: Sequence[Failure], console: Console) -> None:
    """The first few questions without an answer, and why."""
    for failure in failures[:5]:
        console.print(f"[red]{failure.id}, {failure.condition}: {failure.reason}[/]", highlight=False)
    if len(failures) > 5:
        console.print(f"[red]and {len(failures) - 5} more without an answer[/]", highlight=False)


def write_results(folder: Path, report: dict[str, Any], page: str, console: Console) -> None:
    """`report.json` and `report.html` beside the records."""
    (folder / "report.json").write_text(
        json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    console.print(f"records, report.json and report.html are in {folder}", highlight=False)
