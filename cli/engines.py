"""`polysight engines`: TensorRT plans, built offline, checked without a GPU, kept and moved.

`build` works on any machine with `tensorrt_rtx` (ahead of time, for named architectures) and on a GPU machine with
`tensorrt` (for the GPU at hand). Plans lie under `POLYSIGHT_CACHE`/engines, or where `--store` says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from serving.engine.protocol import EngineError

if TYPE_CHECKING:
    from serving.engine.graph import ExportedGraph
    from serving.engine.tensorrt import BuildRequest, Built, TensorRTLibrary
    from serving.engine.tensorrt.builder import OnStep
    from serving.engine.tensorrt.exchange import Exchanged
    from serving.engine.tensorrt.plan import Precision
    from serving.engine.tensorrt.store import PlanStore

app = typer.Typer(help="Build, check, list and move TensorRT plans.", no_args_is_help=True)

StoreOption = Annotated[Path | None, typer.Option("--store", help="Folder of the plans.", file_okay=False)]
TargetsOption = Annotated[str, typer.Option(help="GPU architectures, comma-separated: sm80,sm86,sm89,sm120.")]
PrecisionsOption = Annotated[str, typer.Option(help="fp32, fp16, or both, comma-separated.")]
LibraryOption = Annotated[
    str, typer.Option(help="tensorrt, tensorrt_rtx, or auto: the first that is installed.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on the last line.")]


@app.command()
def build(
    graphs: Annotated[list[str] | None, typer.Argument(help="Which graphs; none means all.")] = None,
    targets: TargetsOption = "",
    precisions: PrecisionsOption = "fp16",
    library: LibraryOption = "auto",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Builds plans that are not there yet; what was built before an interruption is kept."""
    from serving.engine.graph import prepare_graph
    from serving.engine.tensorrt import BuildRequest
    from serving.engine.tensorrt.gpu import present_gpus
    from serving.engine.tensorrt.targets import parse_targets
    from serving.weights import WeightStore

    plans, weights = _store(store), WeightStore()
    told: list[dict[str, Any]] = []
    with _explained():
        made_by = _library(library)
        present = tuple(gpu.target for gpu in present_gpus())
        wanted = parse_targets(targets) or present[:1]
        made_by.check_targets(wanted, present)
        for graph in _graphs(graphs, full=False):
            for precision in _precisions(precisions):
                prepared = prepare_graph(graph, precision, weights)
                request = BuildRequest(prepared.onnx, graph.profiles, wanted)
                with _progress(f"{graph.name} {precision} for {', '.join(wanted)}") as on_step:
                    plan = plans.obtain(prepared.key(made_by, wanted), _builder(made_by, request, on_step))
                told.append(_described(plan.sidecar.key.digest, plan.sidecar.model_dump(mode="json")))
    _show(plans.root, told, as_json)


@app.command("list")
def list_plans(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """What is in the store, and which engines this machine has."""
    from serving.engine.backends import available_backends

    plans = _store(store)
    rows = [_described(plan.digest, plan.sidecar.model_dump(mode="json")) for plan in plans.list()]
    backends = [asdict(backend) for backend in available_backends()]
    if not as_json:
        table = Table("engine", "version", "builds", "runs", "")
        for one in backends:
            yes_no = ["yes" if one[what] else "no" for what in ("builds", "runs")]
            table.add_row(one["name"], one["version"], *yes_no, one["note"])
        Console().print(table)
    _show(plans.root, rows, as_json, backends=backends)


@app.command()
def verify(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Hashes every plan again; removes damaged ones and what killed builds left. Exit code 1 if any was damaged."""
    plans = _store(store)
    verdicts = plans.verify()
    damaged = [verdict for verdict in verdicts if verdict.problem]
    if as_json:
        sound = [verdict.digest for verdict in verdicts if not verdict.problem]
        told = {verdict.digest: verdict.problem for verdict in damaged}
        print(json.dumps({"root": str(plans.root), "sound": sound, "damaged": told}))
    else:
        console = Console()
        console.print(f"{len(verdicts) - len(damaged)} of {len(verdicts)} plans are sound")
        for verdict in damaged:
            console.print(f"  {verdict.problem}", markup=False, highlight=False)
    if damaged:
        raise typer.Exit(1)


@app.command()
def check(
    targets: TargetsOption = "sm80,sm86,sm89,sm120",
    precisions: PrecisionsOption = "fp32,fp16",
    graphs: Annotated[list[str] | None, typer.Option("--graph", help="Only this graph; repeatable.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Also the graphs of production size.")] = False,
    library: LibraryOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Parses and builds every graph in every precision, and compares the cast graphs with their origin in ONNX Runtime.

    Nothing is kept. Exit code 1 if any graph was refused.
    """
    from cli.engines_check import check_graph
    from serving.engine.tensorrt.targets import parse_targets
    from serving.weights import WeightStore

    weights = WeightStore()
    with _explained():
        made_by = _library(library)
        wanted = parse_targets(targets)
        made_by.check_targets(wanted, ())
        told = {}
        for graph in _graphs(graphs, full=full):
            for precision in _precisions(precisions):
                name = f"{graph.name}-{precision}"
                with _progress(name) as on_step:
                    told[name] = check_graph(graph, precision, made_by, wanted, weights, on_step=on_step)
    if as_json:
        print(
            json.dumps(
                {"library": made_by.name, "version": made_by.version, "targets": list(wanted), "graphs": told}
            )
        )
    else:
        table = Table("graph", "parsed", "built", "seconds", "MB", "max difference")
        for name, row in told.items():
            size = f"{row['bytes'] / 1e6:.1f}"
            table.add_row(
                name,
                str(row["parsed"]),
                str(row["built"]),
                f"{row['seconds']:.1f}",
                size,
                str(row["max_abs_diff_onnx"]),
            )
        Console().print(table)
    console = Console(stderr=True)
    for name, row in told.items():
        if row["error"]:
            console.print(f"[red]{name}[/]: ", end="")
            console.print(row["error"], markup=False, highlight=False)
    if any(row["error"] for row in told.values()):
        raise typer.Exit(1)


@app.command()
def push(
    address: Annotated[str, typer.Argument(help="A folder, or any address that fsspec writes (s3://…).")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copies sound plans to another place; what is there already is not sent again."""
    from serving.engine.tensorrt import exchange

    with _explained():
        _exchanged(exchange.push(_store(store), address), "sent", as_json)


@app.command()
def pull(
    address: Annotated[str, typer.Argument(help="A folder, or any address that fsspec reads (s3://…).")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Takes plans from another place, each verified; a damaged one is refused and named."""
    from serving.engine.tensorrt import exchange

    with _explained():
        _exchanged(exchange.pull(_store(store), address), "taken", as_json)


def _builder(library: TensorRTLibrary, request: BuildRequest, on_step: OnStep) -> Callable[[bytes], Built]:
    """What the store calls when the plan is not there, with the timing cache of earlier builds."""
    from serving.engine.tensorrt import build_plan

    return lambda cache: build_plan(library, replace(request, timing_cache=cache), on_step=on_step)


def _store(root: Path | None) -> PlanStore:
    from serving.engine.tensorrt.store import PlanStore
    from serving.weights.store import default_root

    return PlanStore(root if root is not None else default_root() / "engines")


def _library(name: str) -> TensorRTLibrary:
    from serving.engine.tensorrt.library import LIBRARIES, load_library

    if name == "auto":
        return load_library()
    for known in LIBRARIES:
        if name == known:
            return load_library(known)
    raise typer.BadParameter(f"{name!r} is none of auto, {', '.join(LIBRARIES)}")


def _graphs(names: list[str] | None, *, full: bool) -> list[ExportedGraph]:
    from cli.graphs import GRAPHS

    known = {graph.name: graph for graph in GRAPHS}
    if unknown := [name for name in names or [] if name not in known]:
        raise typer.BadParameter(f"no graph {', '.join(unknown)}; there are: {', '.join(known)}")
    return [graph for graph in GRAPHS if (graph.name in names if names else full or not graph.full)]


def _precisions(text: str) -> list[Precision]:
    chosen: list[Precision] = []
    for part in filter(None, map(str.strip, text.split(","))):
        if part == "fp32":
            chosen.append("fp32")
        elif part == "fp16":
            chosen.append("fp16")
        else:
            raise typer.BadParameter(f"{part!r} is neither fp32 nor fp16")
    return chosen


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of engines are for whoever typed the command: their text, and exit code 1."""
    try:
        yield
    except EngineError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error


@contextmanager
def _progress(label: str) -> Iterator[OnStep]:
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


def _described(digest: str, sidecar: dict[str, Any]) -> dict[str, Any]:
    """A sidecar without its profiles and tensors, for a list."""
    key = sidecar["key"]
    return {
        "digest": digest,
        **{
            name: key[name]
            for name in ("graph", "precision", "targets", "library", "library_version", "onnx_sha256")
        },
        "bytes": sidecar["plan_bytes"],
        "seconds": round(sidecar["build_seconds"], 2),
    }


def _show(root: Path, rows: list[dict[str, Any]], as_json: bool, **more: object) -> None:
    if as_json:
        print(json.dumps({"root": str(root), "plans": rows, **more}))
        return
    table = Table("graph", "precision", "targets", "library", "MB", "seconds", "plan")
    for row in rows:
        made_by = f"{row['library']} {row['library_version']}"
        size = f"{row['bytes'] / 1e6:.1f}"
        targets = ", ".join(row["targets"])
        table.add_row(
            row["graph"], row["precision"], targets, made_by, size, str(row["seconds"]), row["digest"][:12]
        )
    Console().print(table)


def _exchanged(done: Exchanged, verb: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(done)))
    else:
        console = Console()
        console.print(f"{len(done.moved)} {verb}, {len(done.present)} there already")
        for reason in done.refused.values():
            console.print(reason, style="red", markup=False, highlight=False)
    if done.refused:
        raise typer.Exit(1)
