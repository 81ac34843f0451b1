"""`polysight evaluate benchmarks`: the published benchmarks, asked as published, beside the published figures."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.connection import JsonOption
from cli.evaluate_gateway import (
    ConcurrencyOption,
    ExpertsChoice,
    ModelOption,
    OutOption,
    RunningGatewayOption,
    SecondsOption,
    ask_all,
    expert_names,
    gateway_or_mesh,
    print_failures,
    results_folder,
    write_results,
)
from llm_server.evaluation.benchmarks.benchmark import BenchmarkDataError
from llm_server.evaluation.benchmarks.evaluate import answered, report, worst_cases
from llm_server.evaluation.benchmarks.registry import BENCHMARKS
from llm_server.evaluation.harness.html_report import html_report
from llm_server.evaluation.harness.tables import scored, table
from llm_server.evaluation.probes.evaluate import MODEL, conditions
from llm_server.evaluation.probes.questions import drawn


def benchmarks(
    name: Annotated[str, typer.Argument(help="Which one; without a name, all are listed.")] = "",
    data: Annotated[Path | None, typer.Option(file_okay=False, help="Folder with its files.")] = None,
    gateway: RunningGatewayOption = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many questions, drawn; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    base: Annotated[bool, typer.Option(help="Ask the base without adapters too.")] = False,
    experts: ExpertsChoice = "",
    model: ModelOption = "",
    out: OutOption = None,
    concurrency: ConcurrencyOption = 4,
    timeout: SecondsOption = 300.0,
    as_json: JsonOption = False,
) -> None:
    """A published benchmark through the gateway. Its data is never fetched: what is absent is said."""
    console = Console(stderr=as_json)
    if not name:
        _list(console, as_json=as_json)
        return
    if name not in BENCHMARKS:
        raise typer.BadParameter(f"there are {', '.join(BENCHMARKS)}", param_hint="NAME")
    benchmark = BENCHMARKS[name]
    asked = conditions(model, expert_names(experts), base=base)
    try:
        whole = benchmark.questions(data or Path(name))
    except BenchmarkDataError as error:
        console.print(f"[red]{error}[/]", highlight=False, markup=True)
        if as_json:
            print(json.dumps({"error": str(error)}))
        raise typer.Exit(2) from error
    examples = drawn(whole, limit, random.Random(seed))
    folder = results_folder(out, name)
    with gateway_or_mesh(gateway, folder / "logs", console) as address:
        done = ask_all(
            address, examples, asked, score=benchmark.mark, folder=folder, concurrency=concurrency,
            timeout_s=timeout, console=console,
        )  # fmt: skip
    print_failures(done.failures, console)
    if not done.records:
        raise typer.Exit(1)
    names = [condition.name for condition in asked]
    told = report(benchmark, examples, done, conditions=names, partial=len(examples) < len(whole))
    if benchmark.export is not None:
        file, text = benchmark.export(answered(examples, done.records, MODEL))
        (folder / file).write_text(text, encoding="utf-8")
        told["export"] = str(folder / file)
        console.print(f"for grading elsewhere: {folder / file}", highlight=False)
    _print(told, benchmark.title, console)
    timings = {c: [r.timings["total"] for r in done.records if r.condition == c] for c in names}
    graded = bool(told["graded"])
    cells = table(scored(done.records)) if graded else {}
    cases = worst_cases(examples, done.records) if graded else []
    write_results(folder, told, html_report(benchmark.title, told, cells, timings, cases), console)
    if as_json:
        print(json.dumps(told, ensure_ascii=False))
    if done.failures:
        raise typer.Exit(1)


def _list(console: Console, *, as_json: bool) -> None:
    """All benchmarks and the files they want."""
    shown = Table("name", "benchmark", "files", "from")
    for one in BENCHMARKS.values():
        shown.add_row(one.name, one.title, "\n".join(one.layout), one.source)
    console.print(shown)
    if as_json:
        print(
            json.dumps({one.name: {"files": one.layout, "source": one.source} for one in BENCHMARKS.values()})
        )


def _print(told: dict[str, Any], title: str, console: Console) -> None:
    """Measured beside published, a row a figure."""
    systems = list(dict.fromkeys(model for models in told["published"].values() for model in models))
    shown = Table("", *told["measured"], *systems, title=f"{title}, {told['n']} questions")
    figures = [figure for measured in told["measured"].values() for figure in measured]
    for figure in dict.fromkeys([*figures, *told["published"]]):
        measured = [
            f"{values[figure]:.1f}" if figure in values else "" for values in told["measured"].values()
        ]
        published = told["published"].get(figure, {})
        shown.add_row(figure, *measured, *(str(published.get(system, "")) for system in systems))
    console.print(shown)
