"""What `polysight engines` shows: bars, tables, last lines, and errors in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from serving.engine.protocol import EngineError

if TYPE_CHECKING:
    from cli.engines_check import Checked
    from serving.engine.tensorrt.builder import OnStep
    from serving.engine.tensorrt.exchange import Exchanged


@contextmanager
def explained() -> Iterator[None]:
    """Errors of engines are for whoever typed the command: their text, and exit code 1."""
    try:
        yield
    except EngineError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error


@contextmanager
def progress(label: str) -> Iterator[OnStep]:
    """A bar with the builder's phases on a terminal, nothing elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[phase]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None, phase="")
        yield lambda phase, done, steps: bar.update(task, completed=done, total=steps, phase=phase)


def described(digest: str, sidecar: dict[str, Any]) -> dict[str, Any]:
    """A sidecar without its profiles and tensors, for a list."""
    key = sidecar["key"]
    return {
        "digest": digest,
        **{
            name: key[name]
            for name in (
                "graph",
                "precision",
                "targets",
                "library",
                "library_version",
                "onnx_sha256",
                "stripped",
            )
        },
        "bytes": sidecar["plan_bytes"],
        "seconds": round(sidecar["build_seconds"], 2),
    }


def show(root: Path, rows: list[dict[str, Any]], as_json: bool, **more: object) -> None:
    """A table of plans, or one JSON object with `more` beside them."""
    if as_json:
        print(json.dumps({"root": str(root), "plans": rows, **more}))
        return
    table = Table("graph", "precision", "targets", "library", "MB", "seconds", "plan")
    for row in rows:
        made_by = f"{row['library']} {row['library_version']}"
        size = f"{row['bytes'] / 1e6:.1f}"
        targets = ", ".join(row["targets"])
        table.add_row(
            row["graph"],
            row["precision"] + (" stripped" if row["stripped"] else ""),
            targets,
            made_by,
            size,
            str(row["seconds"]),
            row["digest"][:12],
        )
    Console().print(table)


def exchanged(done: Exchanged, verb: str, as_json: bool) -> None:
    """What a transfer did. Exit code 1 if a plan was refused."""
    if as_json:
        print(json.dumps(asdict(done)))
    else:
        console = Console()
        console.print(f"{len(done.moved)} {verb}, {len(done.present)} there already")
        for reason in done.refused.values():
            console.print(reason, style="red", markup=False, highlight=False)
    if done.refused:
        raise typer.Exit(1)


def show_checked(told: dict[str, Checked]) -> None:
    """A table of graphs, and on standard error what refused any of them."""
    table = Table("graph", "parsed", "built", "seconds", "MB", "run, s", "max difference", "peak, MB")
    for name, row in told.items():
        table.add_row(
            name,
            str(row["parsed"]),
            str(row["built"]),
            f"{row['seconds']:.1f}",
            f"{row['bytes'] / 1e6:.1f}",
            str(row["run_seconds"]),
            str(row["max_abs_diff_onnx"]),
            f"{row['peak_mb']:.0f}",
        )
    Console().print(table)
