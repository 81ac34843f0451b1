"""`polysight evaluate free`: fifty questions unlike those of training, answered for people to read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.connection import JsonOption
from cli.evaluate_scenes import (
    AdaptersOption,
    PrecisionOption,
    check_precision,
    load,
    map_sight,
    shipped_adapters,
)
from cli.progress_bars import progress_bars


def free(
    adapters: AdaptersOption = None,
    precision: PrecisionOption = "nf4",
    crayon: Annotated[
        bool,
        typer.Option(help="Show the crayon maps too, if the folder has a crayon/; --no-crayon: words only."),
    ] = True,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File for the answers, a JSON object a line.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rephrasings, two steps, comparisons, what cannot be known: the answers, and the base's beside them. No score."""
    from cli.scene_words import scene_words
    from llm_server import base_checkpoint
    from llm_server.evaluation.free_answers import answer_free
    from llm_server.evaluation.free_questions import FREE
    from serving.weights import WeightStore

    check_precision(precision)
    console = Console(stderr=as_json)
    folder = adapters or shipped_adapters()
    model, tokenizer = load(base_checkpoint.checkpoint(WeightStore()), folder, precision=precision)
    sight = map_sight(model, folder, base=base_checkpoint.NAME) if crayon else None
    with progress_bars(Console(stderr=True)) as progress:
        bar = progress.add_task("scenes", total=2 * len(FREE))
        answers = answer_free(
            model, tokenizer, scene_words, sight=sight, advance=lambda done: progress.advance(bar, done)
        )
    shown = Table("question", "a good answer", "both adapters", "base alone", show_lines=True)
    scene = ""
    for one in answers:
        if one.scene != scene:
            scene = one.scene
            shown.add_section()
            shown.add_row(f"[bold]{scene}[/]", "", "", "")
        shown.add_row(*(_plain(text) for text in (one.question, one.good, one.answer, one.base)))
    console.print(shown)
    records = [asdict(one) for one in answers]
    if out is not None:
        lines = (json.dumps(record, ensure_ascii=False) for record in records)
        out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        console.print(f"the answers are in {out}", highlight=False)
    if as_json:
        print(json.dumps({"n": len(records), "crayon": sight is not None, "answers": records}))


def _plain(text: str) -> str:
    """Text that a table prints as it is."""
    return text.replace("[", "\\[")
