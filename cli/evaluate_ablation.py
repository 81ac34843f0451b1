"""`polysight evaluate ablation`: what crayon prompt and second adapter are worth, trained small or on given weights."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cli.connection import JsonOption
from cli.progress_bars import progress_bars

if TYPE_CHECKING:
    from llm_server.evaluation.ablation.run import Rig
    from llm_server.evaluation.ablation.variants import Part
    from llm_server.training.bases import Base
    from llm_server.training.dual_settings import DualSettings

BASES = ("embedded", "tiny")


def ablation(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each contender, from seed 0 on.")] = 5,
    steps: Annotated[
        int,
        typer.Option(min=2, help="Of each training; a quarter is crayon prompt tuning where there is any."),
    ] = 400,
    part: Annotated[str, typer.Option(help="crayon, adapters or both.")] = "both",
    n: Annotated[
        int, typer.Option("--n", min=1, help="Held-out scenes that each contender is asked about.")
    ] = 100,
    evaluation_seed: Annotated[int, typer.Option(help="Which held-out scenes.")] = 12345,
    base: Annotated[str, typer.Option(help="embedded or tiny (random, two layers).")] = "embedded",
    adapters: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="object/, vl/ and crayon/ to switch the crayon prompt's tables off in, instead of training.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder for a card and the weights of each contender; those with a card are not trained again. "
            "Without it: a new temporary folder.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Crayon off, classes, classes and numbers; vision-language alone, one adapter, two: trained alike, asked alike."""
    if base not in BASES:
        raise typer.BadParameter(f"there are {', '.join(BASES)}", param_hint="--base")
    from llm_server.evaluation.ablation.run import AblationRefused, score_given
    from llm_server.evaluation.ablation.variants import PARTS
    from llm_server.models.crayon_files import CrayonRefused
    from llm_server.training.dual_settings import TrainingRefused

    chosen = [one for one in PARTS if part in (one, "both")]
    if not chosen:
        raise typer.BadParameter(f"{part} is not crayon, adapters or both", param_hint="--part")
    console = Console(stderr=True)
    settings, rig = _rig(base, n, evaluation_seed)
    folder = out or Path(tempfile.mkdtemp(prefix="polysight-ablation-"))
    folder.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {}
    try:
        if adapters is not None and "crayon" in chosen:
            chosen.remove("crayon")
            told["crayon"] = score_given(rig, adapters, base=settings.base.name)
        with progress_bars(console) as progress:
            told |= _trained(rig, settings, chosen, folder, steps=steps, seeds=seeds, progress=progress)
    except (AblationRefused, TrainingRefused, CrayonRefused) as error:
        console.print(f"[red]{error}[/]", highlight=False)
        raise typer.Exit(2) from error
    told |= {
        "seeds": seeds,
        "steps": steps,
        "n": n,
        "evaluation_seed": evaluation_seed,
        "base": settings.base.name,
        "given_weights": adapters is not None,
    }
    (folder / "report.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    console.print(f"cards and report.json are in {folder}", highlight=False)
    shown = Console(stderr=as_json)
    for one in PARTS:
        if one in told:
            shown.print(_table(one, told[one]))
    if as_json:
        print(json.dumps(told))


def _rig(base: str, n: int, seed: int) -> tuple[DualSettings, Rig]:
    """Settings of the base's size, and what all contenders share."""
    from cli.scene_words import scene_words
    from cli.train_dual import scene_labels
    from llm_server.evaluation.ablation.run import Rig
    from llm_server.training import dual_settings as presets

    settings = presets.TINY if base == "tiny" else presets.EMBEDDED
    return settings, Rig(lambda: _base(base, settings), scene_words, scene_labels(), n, seed)


def _base(base: str, settings: DualSettings) -> Base:
    from llm_server.training.bases import load_base, tiny_base

    if base == "tiny":
        return tiny_base(0)
    from llm_server import base_checkpoint
    from serving.weights import WeightStore

    return load_base(settings.base, base_checkpoint.checkpoint(WeightStore()))


def _trained(
    rig: Rig,
    settings: DualSettings,
    parts: list[Part],
    folder: Path,
    *,
    steps: int,
    seeds: int,
    progress: Progress,
) -> dict[str, Any]:
    """Scores of every contender over all seeds, seed by seed, so that a run that is cut has whole rows."""
    from llm_server.evaluation.ablation.run import run_variant, summary
    from llm_server.evaluation.ablation.variants import variants

    wanted = [
        one
        for seed in range(seeds)
        for part in parts
        for one in variants(settings, part, steps=steps, seed=seed)
    ]
    bar = progress.add_task("ablation", total=sum(one.settings.steps for one in wanted))
    scores: dict[str, dict[str, list[dict[str, float]]]] = {part: {} for part in parts}
    before = 0
    for one in wanted:

        def step_done(done: int, loss: float, before: int = before, name: str = one.folder) -> None:
            progress.update(bar, completed=before + done, description=f"{name} loss {loss:.3f}")

        card = run_variant(rig, one, folder, step_done=step_done)
        scores[one.part].setdefault(one.name, []).append(card["scores"])
        before += one.settings.steps
        progress.update(bar, completed=before)
    return {part: {name: summary(rows) for name, rows in named.items()} for part, named in scores.items()}


def _table(part: str, told: dict[str, dict[str, Any]]) -> Table:
    keys = [key for key in next(iter(told.values())) if key not in ("spread", "values")]
    asked = "about the map alone" if part == "crayon" else "mean of kinds, words and map"
    table = Table(part, *keys, title=f"right answers, {asked}")
    for name, row in told.items():
        spread = row.get("spread", {})
        table.add_row(
            name, *(f"{row[key]:.3f}" + (f" ± {spread[key]:.3f}" if spread else "") for key in keys)
        )
    return table
