"""`polysight evaluate`: scores of the served language model, on data that it was not trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.evaluate_benchmarks import benchmarks
from cli.evaluate_coco_probes import coco_probes

KINDS = ("count", "existence", "relation", "text")

app = typer.Typer(help="Score the language model with its adapters.", no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Score the language model with its adapters."""


app.command("coco-probes")(coco_probes)
app.command("benchmarks")(benchmarks)


@app.command()
def scenes(
    n: Annotated[
        int, typer.Option("--n", min=1, help="How many held-out scenes, one question of each kind.")
    ] = 300,
    seed: Annotated[int, typer.Option(help="Which held-out scenes; none is ever trained on.")] = 12345,
    adapters: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder with object/ and vl/; the shipped ones."),
    ] = None,
    precision: Annotated[str, typer.Option(help="Of the base: nf4 (as served), bf16 or fp32.")] = "nf4",
    show: Annotated[int, typer.Option(min=0, help="How many wrong answers to print.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the last line.")] = False,
) -> None:
    """Exact answers on generated scenes: both adapters on, and the base without them beside it."""
    from llm_server import base_checkpoint
    from serving.weights import WeightStore

    if precision not in ("nf4", "bf16", "fp32"):
        raise typer.BadParameter(f"{precision} is not nf4, bf16 or fp32", param_hint="--precision")
    console = Console(stderr=True)
    checkpoint = base_checkpoint.checkpoint(WeightStore())
    folder = adapters or Path(base_checkpoint.__file__).parent / "adapters"
    report = score(checkpoint, folder, n=n, seed=seed, console=console, precision=precision, show=show)
    if as_json:
        print(json.dumps(report))
        return
    table = Table("kind", "both adapters", "base alone", title=f"{n} held-out scenes, seed {seed}")
    for kind in KINDS:
        table.add_row(kind, f"{report[kind]:.3f}", f"{report['base'][kind]:.3f}")
    Console().print(table)


def score(
    checkpoint: Path,
    adapters: Path,
    *,
    n: int,
    seed: int,
    console: Console,
    precision: Any = "nf4",
    show: int = 0,
) -> dict[str, Any]:
    """The report on ``n`` held-out scenes with the adapters of a folder; wrong answers go to the console."""
    from cli.scene_words import scene_words
    from llm_server import base_model
    from llm_server.evaluation.scenes import evaluate_with_and_without
    from llm_server.training.fused_lora import fuse
    from llm_server.training.packed_attention import register
    from llm_server.training.recipe import load_adapters

    tokenizer = base_model.load_tokenizer(checkpoint)
    # The served values, dequantised once instead of at every step: the same products, bit for bit (tested).
    loaded: Any = "nf4-dequantised" if precision == "nf4" else precision
    model = load_adapters(base_model.load_model(checkpoint, loaded, attention=register()), adapters).eval()
    fuse(model)
    with Progress(
        TextColumn("scenes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        bar = progress.add_task("scenes", total=2 * n)
        report, scores = evaluate_with_and_without(
            model,
            tokenizer,
            seed=seed,
            n=n,
            verbalize=scene_words,
            advance=lambda done: progress.advance(bar, done),
        )
    for kind, _, question, expected, said in scores.wrong[:show]:
        console.print(
            f"{kind}: {question} expected {expected!r}, said {said!r}", highlight=False, markup=False
        )
    return report
