"""`polysight engines`: TensorRT plans, built offline, checked without a GPU, kept and moved.

Graphs are those of the project's table, or files of one's own (`--onnx`), which is how plans of real checkpoints are
made. `build` works on any machine with `tensorrt_rtx` (ahead of time, for named architectures), on a GPU machine with
`tensorrt` (for the GPU at hand). Plans lie under `POLYSIGHT_CACHE`/engines, or where `--store` says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.engines_output import described, exchanged, explained, progress, show, show_checked

if TYPE_CHECKING:
    from cli.engines_check import Checked
    from serving.engine.graph import ExportedGraph
    from serving.engine.quantization import Calibration
    from serving.engine.tensorrt import BuildRequest, Built, TensorRTLibrary
    from serving.engine.tensorrt.builder import OnStep
    from serving.engine.tensorrt.plan import Precision
    from serving.engine.tensorrt.store import PlanStore

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")

app = typer.Typer(help="Build, check, list and move TensorRT plans.", no_args_is_help=True)

StoreOption = Annotated[Path | None, typer.Option("--store", help="Folder of the plans.", file_okay=False)]
TargetsOption = Annotated[str, typer.Option(help="GPU architectures, comma-separated: sm80,sm86,sm89,sm120.")]
PrecisionsOption = Annotated[
    str,
    typer.Option(
        "--precisions",
        "--precision",
        help="fp32, fp16, bf16, int8, fp8; several comma-separated. The last two need --calibration.",
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of pictures (single lines for readers of lines) on which int8 and fp8 are calibrated.",
        exists=True,
        file_okay=False,
    ),
]
PrepareOption = Annotated[
    str,
    typer.Option(
        help="How pictures become the input of --onnx: mask2former, eomt, owlv2, psgtr, yolo, ocr-page…"
    ),
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(help="Nodes that stay in float32 in int8 and fp8, by a pattern of names: '*/class_head/*'."),
]
OnnxOption = Annotated[
    Path | None,
    typer.Option(
        help="A graph of your own instead, or the folder that an expert's export wrote.", exists=True
    ),
]
NameOption = Annotated[
    str, typer.Option(help="What servers call the graph of --onnx; unset: the file's stem.")
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(help="Of an input of --onnx: NAME=1x3x64x64:4x3x64x64:8x3x64x64 (least:likeliest:largest)."),
]
MaxBatchOption = Annotated[int, typer.Option(help="Of inputs of --onnx that no --shape names.", min=1)]
LibraryOption = Annotated[
    str, typer.Option(help="tensorrt, tensorrt_rtx, or auto: the first that is installed.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on the last line.")]


@app.command()
def build(
    graphs: Annotated[list[str] | None, typer.Argument(help="Which graphs; none means all.")] = None,
    onnx: OnnxOption = None,
    name: NameOption = "",
    shape: ShapeOption = None,
    max_batch: MaxBatchOption = 8,
    targets: TargetsOption = "",
    precisions: PrecisionsOption = "fp16",
    stripped: Annotated[
        bool, typer.Option("--stripped", help="Without weights; they come from the graph at load time.")
    ] = False,
    calibration: CalibrationOption = None,
    prepare: PrepareOption = "",
    keep: KeepOption = None,
    library: LibraryOption = "auto",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Builds plans that are not there yet; what was built before an interruption is kept."""
    from serving.engine.graph import prepare_graph
    from serving.engine.tensorrt import BuildRequest
    from serving.engine.tensorrt.gpu import present_gpus
    from serving.engine.tensorrt.plan import CALIBRATED
    from serving.engine.tensorrt.targets import parse_targets
    from serving.weights import WeightStore

    plans, weights = _store(store), WeightStore()
    told: list[dict[str, Any]] = []
    with explained():
        if stripped and set(_precisions(precisions)) & set(CALIBRATED):
            raise typer.BadParameter("weights in eight bits are part of the plan: not with --stripped")
        made_by = _library(library)
        present = tuple(gpu.target for gpu in present_gpus())
        wanted = parse_targets(targets) or present[:1]
        made_by.check_targets(wanted, present)
        for graph in _chosen(graphs, onnx, name, shape, max_batch, full=False):
            for precision in _precisions(precisions):
                measured = _calibration(graph, calibration, prepare, keep)
                prepared = prepare_graph(graph, precision, weights, calibration=measured)
                request = BuildRequest(prepared.onnx, graph.profiles, wanted, stripped=stripped)
                with progress(f"{graph.name} {precision} for {', '.join(wanted)}") as on_step:
                    plan = plans.obtain(
                        prepared.key(made_by, wanted, stripped=stripped),
                        _builder(made_by, request, on_step),
                        file=graph.file,
                    )
                told.append(described(plan.sidecar.key.digest, plan.sidecar.model_dump(mode="json")))
    show(plans.root, told, as_json)


@app.command("list")
def list_plans(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """What is in the store, and which engines this machine has."""
    from serving.engine.backends import available_backends

    plans = _store(store)
    rows = [described(plan.digest, plan.sidecar.model_dump(mode="json")) for plan in plans.list()]
    backends = [asdict(backend) for backend in available_backends()]
    if not as_json:
        table = Table("engine", "version", "builds", "runs", "")
        for one in backends:
            yes_no = ["yes" if one[what] else "no" for what in ("builds", "runs")]
            table.add_row(one["name"], one["version"], *yes_no, one["note"])
        Console().print(table)
    show(plans.root, rows, as_json, backends=backends)


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
    onnx: OnnxOption = None,
    name: NameOption = "",
    shape: ShapeOption = None,
    max_batch: MaxBatchOption = 8,
    full: Annotated[bool, typer.Option("--full", help="Also the graphs of production size.")] = False,
    no_build: Annotated[
        bool, typer.Option("--no-build", help="Export and run in ONNX Runtime alone; needs no TensorRT.")
    ] = False,
    calibration: CalibrationOption = None,
    prepare: PrepareOption = "",
    keep: KeepOption = None,
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
    told: dict[str, Checked] = {}
    with explained():
        made_by = None if no_build else _library(library)
        wanted = parse_targets(targets)
        if made_by is not None:
            made_by.check_targets(wanted, ())
        for graph in _chosen(graphs, onnx, name, shape, max_batch, full=full):
            for precision in _precisions(precisions):
                label = f"{graph.name}-{precision}"
                measured = _calibration(graph, calibration, prepare, keep)
                with progress(label) as on_step:
                    told[label] = check_graph(
                        graph, precision, made_by, wanted, weights, calibration=measured, on_step=on_step
                    )
    if as_json:
        by = {"library": made_by.name, "version": made_by.version} if made_by is not None else {}
        print(json.dumps({**by, "targets": list(wanted), "graphs": told}))
    else:
        show_checked(told)
    console = Console(stderr=True)
    for label, row in told.items():
        if row["error"]:
            console.print(f"[red]{label}[/]: ", end="")
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

    with explained():
        exchanged(exchange.push(_store(store), address), "sent", as_json)


@app.command()
def pull(
    address: Annotated[str, typer.Argument(help="A folder, or any address that fsspec reads (s3://…).")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Takes plans from another place, each verified; a damaged one is refused and named."""
    from serving.engine.tensorrt import exchange

    with explained():
        exchanged(exchange.pull(_store(store), address), "taken", as_json)


def _builder(library: TensorRTLibrary, request: BuildRequest, on_step: OnStep) -> Callable[[bytes], Built]:
    """What the store calls when the plan is not there, with the timing cache of earlier builds."""
    from serving.engine.tensorrt import build_plan

    return lambda cache: build_plan(library, replace(request, timing_cache=cache), on_step=on_step)


def _calibration(
    graph: ExportedGraph, folder: Path | None, prepare: str, keep: list[str] | None
) -> Callable[[Path], Calibration] | None:
    """What eight bits ask for when the graph has been exported."""
    if folder is None:
        return None
    from cli.engines_calibration import calibration_of

    return lambda source: calibration_of(graph, source, folder, prepare=prepare, keep=tuple(keep or ()))


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


def _chosen(
    names: list[str] | None,
    onnx: Path | None,
    name: str,
    shape: list[str] | None,
    max_batch: int,
    *,
    full: bool,
) -> list[ExportedGraph]:
    """The graphs of the table by name, or those of the user's own file or folder."""
    if onnx is None:
        if name or shape:
            raise typer.BadParameter("--name and --shape are for the graph of --onnx")
        return _graphs(names, full=full)
    if names:
        raise typer.BadParameter(f"either graphs of the table ({', '.join(names)}) or --onnx")
    from cli.engines_onnx import own_graphs, parse_shapes

    return own_graphs(onnx, name=name, ranges=parse_shapes(shape or []), max_batch=max_batch)


def _graphs(names: list[str] | None, *, full: bool) -> list[ExportedGraph]:
    from cli.graphs import GRAPHS

    known = {graph.name: graph for graph in GRAPHS}
    if unknown := [name for name in names or [] if name not in known]:
        raise typer.BadParameter(
            f"no graph {', '.join(unknown)}; there are: {', '.join(known)}; a file of your own: --onnx FILE"
        )
    return [graph for graph in GRAPHS if (graph.name in names if names else full or not graph.full)]


def _precisions(text: str) -> list[Precision]:
    chosen: list[Precision] = []
    for part in filter(None, map(str.strip, text.split(","))):
        for known in _PRECISIONS:
            if part == known:
                chosen.append(known)
                break
        else:
            raise typer.BadParameter(f"{part!r} is none of {', '.join(_PRECISIONS)}")
    return chosen
