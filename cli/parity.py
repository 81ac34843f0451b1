"""`polysight parity prompts|panoptic|llm SET`: does this project give what the published systems give?

SET is a folder with `prompts/{collavo,moai}.{json,safetensors}` and `checkpoints/{collavo,moai}*/tokenizer.model` for
`prompts`, `panoptic/postprocess.{json,safetensors}` for `panoptic`, `vectors/MODEL.{json,safetensors}` and
`checkpoints/MODEL/` for `llm`. Nothing here knows a particular set: sizes, names, thresholds and tokenizers come from
its files. Prompts and panoptic maps are compared to the last byte, tensors of the models within a tolerance each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.golden.record import ParityReport

app = typer.Typer(
    help="Compare this project with golden outputs of the published systems.", no_args_is_help=True
)

SetFolder = Annotated[Path, typer.Argument(metavar="SET", exists=True, file_okay=False, help="Golden set.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on the last line.")]


def run_prompts(set_dir: Path) -> ParityReport:
    """Compare prompts, crayon maps, token ids, masks and pixel preparation with a golden set.

    Raises:
        GoldenSetError: the folder is not laid out like a golden set.
    """
    from cli.golden.collavo import compare_collavo
    from cli.golden.moai import compare_moai
    from cli.golden.record import Record
    from cli.golden.sets import GoldenPrompts

    record = Record()
    compare_collavo(GoldenPrompts(set_dir, "collavo"), record)
    compare_moai(GoldenPrompts(set_dir, "moai"), record)
    return record.report()


def run_panoptic(set_dir: Path) -> ParityReport:
    """Compare panoptic post-processing of query logits with a golden set.

    Raises:
        GoldenSetError: the folder is not laid out like a golden set.
    """
    from cli.golden.panoptic import GoldenPanoptic, compare_panoptic
    from cli.golden.record import Record

    record = Record()
    compare_panoptic(GoldenPanoptic(set_dir), record)
    return record.report()


@app.command()
def prompts(set_dir: SetFolder, as_json: AsJson = False) -> None:
    """Count the golden prompts that are met exactly; exit code 1 if any is not, 2 if SET is not a golden set."""
    _report(run_prompts, set_dir, "golden prompts", as_json)


@app.command()
def panoptic(set_dir: SetFolder, as_json: AsJson = False) -> None:
    """Count the golden panoptic cases that are met exactly; exit codes as for `prompts`."""
    _report(run_panoptic, set_dir, "golden panoptic cases", as_json)


@app.command()
def llm(
    set_dir: SetFolder,
    model: Annotated[
        str, typer.Option(help="Which checkpoint and vectors of the set, such as collavo-tiny or moai-tiny.")
    ],
    as_json: AsJson = False,
) -> None:
    """Run a tiny CoLLaVO or MoAI on golden cases and compare every tensor, greedy and beam tokens with the golden ones.

    Exit code 1 if a case fails, 2 if SET is not a golden set with this model.
    """
    from cli.golden.llm.compare import compare_model
    from cli.golden.sets import GoldenSetError

    try:
        report = compare_model(set_dir, model)
    except GoldenSetError as error:
        Console(stderr=True).print(f"[red]{error}[/]", highlight=False)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps(asdict(report), ensure_ascii=False))
    else:
        console = Console()
        console.print(
            f"{report.cases - len(report.failed)} of {report.cases} cases of {model} met; greedy tokens exact in "
            f"{report.tokens_exact}, beam tokens in {report.beam_exact}; logits differ by up to "
            f"{report.max_abs_diff_logits:.2g}"
        )
        for failed in report.failed:
            console.print(f"  [red]{failed.name}[/]: ", end="")
            console.print(failed.reason, markup=False, highlight=False)
    if report.failed:
        raise typer.Exit(1)


def _report(run: Callable[[Path], ParityReport], set_dir: Path, what: str, as_json: bool) -> None:
    from cli.golden.sets import GoldenSetError

    try:
        report = run(set_dir)
    except GoldenSetError as error:
        Console(stderr=True).print(f"[red]{error}[/]", highlight=False)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps(asdict(report), ensure_ascii=False))
    else:
        console = Console()
        console.print(f"{report.exact} of {report.cases} {what} met exactly")
        for failed in report.failed:
            console.print(f"  [red]{failed.name}[/]: ", end="")
            console.print(failed.reason, markup=False, highlight=False)
    if report.failed:
        raise typer.Exit(1)
