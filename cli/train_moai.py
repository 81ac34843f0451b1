"""`polysight train moai`: MoAI's compressor, mixers and gates, in the two published steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.progress_bars import progress_bars
from gateway.verbalizer import (
    Detection,
    Region,
    RelatedObject,
    Relation,
    TextLine,
    strongest_relations,
    verbalize_detections,
    verbalize_regions,
    verbalize_relations,
    verbalize_text,
)

if TYPE_CHECKING:
    from llm_server.models.aux_tokens import Source
    from llm_server.training.moai_settings import MoaiSettings
    from llm_server.training.scenes import Scene

_SURE = 0.99


def moai(
    checkpoint: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of a MoAI checkpoint, of any size.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint/, trained.safetensors and run_card.json.")],
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="On the CPU, a few examples seen often, for tiny weights; fails unless it learns."
        ),
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps of each of the two steps.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cuda (for 7 B: NF4 base, published rates; not run by us) or cpu.")
    ] = "cuda",
    precision: Annotated[
        str | None, typer.Option(help="Of the frozen base: nf4, int8, bf16, fp32; what suits the device.")
    ] = None,
    fresh: Annotated[
        bool | None,
        typer.Option(
            help="Begin with random compressor, mixers and gates, or with the checkpoint's; in a smoke run random."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of examples, draws and initial weights.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The run card as one JSON object on the last line.")
    ] = False,
) -> None:
    """Trains compressor, mixers and gates on generated scenes; all other weights stay as they are, bit for bit."""
    console = Console(stderr=True)
    from llm_server.models.checkpoint import load
    from llm_server.models.checkpoint_dimensions import CheckpointError
    from llm_server.models.moai import Moai
    from llm_server.models.precision import precision as precision_of
    from llm_server.prompts.intern_tokenizer import InternTokenizer
    from llm_server.training.dual_settings import TrainingRefused
    from llm_server.training.moai_examples import SceneMoaiExamples
    from llm_server.training.moai_run import MoaiSources, train_moai

    try:
        settings = _settings("cpu" if smoke else device, precision, seed, fresh, steps, smoke=smoke)
        model = load(checkpoint, precision_of(settings.precision), device=settings.device)
        if not isinstance(model, Moai):
            raise typer.BadParameter(f"{checkpoint} is no MoAI", param_hint="--checkpoint")
        side = model.dimensions.vision.image_size
        train, heldout = (
            SceneMoaiExamples(split, settings.seed, side, moai_words) for split in ("train", "heldout")
        )
        with progress_bars(console) as bars:
            bar = bars.add_task("", total=settings.steps)

            def step_done(number: int, kind: str, step: int, steps: int, loss: float) -> None:
                before = sum(stage.steps for stage in settings.stages[:number])
                bars.update(bar, completed=before + step, description=f"{kind} loss {loss:.3f}")

            card = train_moai(
                settings,
                model,
                InternTokenizer(checkpoint / "tokenizer.model"),
                MoaiSources(train, heldout),
                checkpoint=checkpoint,
                out=out,
                resume=resume,
                step_done=step_done,
            )
    except (TrainingRefused, CheckpointError) as error:
        console.print(f"[red]{error}[/]", highlight=False)
        raise typer.Exit(2) from error
    if as_json:
        print(json.dumps(card))
    else:
        Console().print(_table(card))
    if smoke and not card["improved"]:
        console.print("[red]the loss on what was trained on did not fall by a tenth[/]")
        raise typer.Exit(1)


def moai_words(scene: Scene) -> Mapping[Source, str]:
    """The four sentences about a scene, by the gateway's own verbalizers; every expert is sure of what it reports."""
    objects = scene.objects
    relations = [Relation(r.subject, r.predicate, r.object, _SURE) for r in scene.relations]
    return {
        "regions": verbalize_regions([Region(seen.name, seen.box) for seen in objects]).text,
        "detections": verbalize_detections([Detection(seen.name, seen.box, _SURE) for seen in objects]).text,
        "relations": verbalize_relations(
            [RelatedObject(seen.name, seen.box) for seen in objects],
            strongest_relations(relations, objects=len(objects)),
        ).text,
        "text": verbalize_text([TextLine(line, _SURE) for line in scene.lines]).text,
    }


def _settings(
    device: str,
    precision: str | None,
    seed: int,
    fresh: bool | None,
    steps: int | None,
    *,
    smoke: bool,
) -> MoaiSettings:
    import torch

    from llm_server.training import moai_settings as presets

    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device} is not cpu or cuda", param_hint="--device")
    if precision not in (None, "nf4", "int8", "bf16", "fp32"):
        raise typer.BadParameter(f"{precision} is not a precision", param_hint="--precision")
    settings = presets.TINY if smoke else presets.PUBLISHED
    own: dict[str, Any] = {"device": device, "seed": seed}
    if device == "cpu":
        own["precision"] = "fp32"
    if precision is not None:
        own["precision"] = precision
    if fresh is not None:
        own["fresh"] = fresh
    settings = replace(settings, **own)
    if steps is not None:
        settings = presets.with_steps(settings, steps)
    presets.check(settings, cuda=torch.cuda.is_available())
    return settings


def _table(card: dict[str, Any]) -> Table:
    table = Table("loss", "seen", "held out", title=f"{card['steps']} steps, {card['seconds']} s")
    for when, losses in card["loss"].items():
        table.add_row(when.replace("_", " "), f"{losses['seen']:.3f}", f"{losses['heldout']:.3f}")
    return table
