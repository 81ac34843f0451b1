"""`polysight evaluate coco-probes`: is it there, how many, where, what is this; of pictures annotated as COCO's are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console

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
    print_table,
    results_folder,
    write_results,
)
from llm_server.evaluation.harness.example import Example
from llm_server.evaluation.harness.html_report import html_report
from llm_server.evaluation.probes.answers import mark
from llm_server.evaluation.probes.coco import AnnotatedSet, AnnotationError, read_annotations
from llm_server.evaluation.probes.evaluate import conditions, outcome, worst_cases
from llm_server.evaluation.probes.pope import make_pope
from llm_server.evaluation.probes.prompts import FORMS, FormName
from llm_server.evaluation.probes.questions import KINDS, make_questions


def coco_probes(
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the pictures.")],
    annotations: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Instances in COCO's format.")
    ],
    gateway: RunningGatewayOption = None,
    form: Annotated[
        str,
        typer.Option(help="published: the CoLLaVO paper's sentences; short: those of the shipped adapters."),
    ] = "published",
    kinds: Annotated[str, typer.Option(help="Which questions.")] = ",".join(KINDS),
    limit: Annotated[int, typer.Option(min=0, help="At most so many questions of each kind; 0: all.")] = 0,
    pope: Annotated[bool, typer.Option(help="POPE's three splits too.")] = True,
    base: Annotated[bool, typer.Option(help="Ask the base without adapters too.")] = True,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    experts: ExpertsChoice = "",
    model: ModelOption = "",
    out: OutOption = None,
    concurrency: ConcurrencyOption = 4,
    timeout: SecondsOption = 300.0,
    as_json: JsonOption = False,
) -> None:
    """Object-level questions from a COCO-format annotation, beside what a perfect reader of the experts would score."""
    console = Console(stderr=as_json)
    asked = conditions(model, expert_names(experts), base=base)
    try:
        annotated = read_annotations(annotations, images)
    except (OSError, AnnotationError) as error:
        raise typer.BadParameter(str(error), param_hint="--annotations") from error
    examples = _examples(annotated, form, kinds, limit=limit, pope=pope, seed=seed)
    if not examples:
        raise typer.BadParameter("it gives no question of these kinds", param_hint="--annotations")
    for reason, count in annotated.skipped.items():
        console.print(f"[yellow]passed over, {reason}: {count}[/]", highlight=False)
    shown = ", ".join(f"{count} {kind}" for kind, count in Counter(one.group for one in examples).items())
    console.print(f"{len(annotated.pictures)} pictures; questions: {shown}", highlight=False)
    folder = results_folder(out, "coco-probes")
    with gateway_or_mesh(gateway, folder / "logs", console) as address:
        done = ask_all(
            address, examples, asked, score=mark, folder=folder, concurrency=concurrency, timeout_s=timeout,
            console=console,
        )  # fmt: skip
    print_failures(done.failures, console)
    if not done.records:
        raise typer.Exit(1)
    result = outcome(examples, done, seed=seed)
    title = f"Object-level probes, {form} form, {annotations.name}"
    timings = {c.name: [r.timings["total"] for r in done.records if r.condition == c.name] for c in asked}
    report = {**result.report, "form": form, "seed": seed}
    page = html_report(title, report, result.table, timings, worst_cases(result.readings))
    print_table(result.table, title, console)
    write_results(folder, report, page, console)
    if as_json:
        print(json.dumps(report))
    if done.failures:
        raise typer.Exit(1)


def _examples(
    annotated: AnnotatedSet, form: str, kinds: str, *, limit: int, pope: bool, seed: int
) -> list[Example]:
    """The questions; raises typer.BadParameter for a form or kind that there is not."""
    if form not in get_args(FormName):
        raise typer.BadParameter(f"{form} is not one of {', '.join(FORMS)}", param_hint="--form")
    chosen = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    if not set(chosen) <= set(KINDS):
        raise typer.BadParameter(f"there are {', '.join(KINDS)}", param_hint="--kinds")
    made = make_questions(annotated, FORMS[cast(FormName, form)], kinds=chosen, seed=seed, limit=limit)
    if pope:
        # As many pictures as give about `limit` questions a split, three answered yes and three no each.
        made += make_pope(annotated, seed=seed, pictures=-(-limit // 6))
    return made
