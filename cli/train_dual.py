"""`polysight train dual`: crayon prompt tuning, then two adapters in turns; on a CPU or on one GPU."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.progress_bars import progress_bars
from gateway.verbalizer import COCO_PANOPTIC, CrayonObject, display_name, verbalize_collavo

if TYPE_CHECKING:
    from llm_server.training.bases import Base
    from llm_server.training.coco_pictures import NumberedObject
    from llm_server.training.dual_run import Sources
    from llm_server.training.dual_settings import DualSettings

SMOKE_STEPS = {"tiny": (30, 60), "embedded": (4, 12)}


def dual(
    out: Annotated[
        Path | None, typer.Option(help="Folder for object/, vl/, crayon/, run_card.json and loss.png.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="tiny, embedded, or the folder of a checkpoint; embedded (tiny in a smoke run)."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda (for 7 B: NF4, rank 64; not run by us).")] = "cpu",
    precision: Annotated[
        str | None, typer.Option(help="Of the base: nf4, nf4-dequantised, bf16, fp32; what suits the device.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of data, order and initial weights.")] = 0,
    coco: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="COCO instances or panoptic JSON.")
    ] = None,
    segments: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="PNGs of a panoptic --coco.")
    ] = None,
    conversations: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="LLaVA-Instruct or ShareGPT4V JSON about pictures of --coco."
        ),
    ] = None,
    begin_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            exists=True,
            file_okay=False,
            help="Adapters to go on from, as `train scenes` or an earlier dual run leaves them.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="As many steps as fit into so many minutes, measured on the first ones."),
    ] = None,
    adapters: Annotated[
        str,
        typer.Option(help="dual; single: one adapter learns both tasks; vl-only: no object task."),
    ] = "dual",
    crayon: Annotated[
        str, typer.Option(help="both; semantic: classes without numbers; off: no image positions.")
    ] = "both",
    scenes: Annotated[
        int,
        typer.Option(
            min=0, help="Held-out scenes that the embedded base is asked about afterwards, for the card."
        ),
    ] = 300,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="A few steps of every stage; fails unless every held-out loss falls."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The run card as one JSON object on the last line.")
    ] = False,
) -> None:
    """Trains the crayon prompt, then both adapters with it. Nothing is downloaded but the embedded base."""
    console = Console(stderr=True)
    if out is None and not smoke:
        raise typer.BadParameter("needed, unless it is a smoke run", param_hint="--out")
    if conversations is not None and coco is None:
        raise typer.BadParameter(
            "needs --coco, which says what is seen in the pictures", param_hint="--conversations"
        )
    if minutes is not None and smoke:
        raise typer.BadParameter("a smoke run has its own number of steps", param_hint="--minutes")
    chosen = base or ("tiny" if smoke else "embedded")
    from llm_server.training.coco_pictures import CocoError
    from llm_server.training.conversations import ConversationsError
    from llm_server.training.crayon_words import names_by_id
    from llm_server.training.dual_run import train_dual
    from llm_server.training.dual_settings import TrainingRefused
    from llm_server.training.run_folder import write_card

    try:
        began = _settings(chosen, device, precision, seed, smoke=smoke, begin_from=begin_from)
        settings = _varied(began, adapters, crayon)
        loaded = _base(settings, chosen)
        skipped: Counter[str] = Counter()
        sources = _sources(settings, coco, segments, conversations, skipped)
        _report(skipped, console)
        with tempfile.TemporaryDirectory(prefix="polysight-dual-") as scratch, progress_bars(console) as bars:
            bar = bars.add_task("", total=settings.steps)
            before: list[int] = []

            def planned(settings: DualSettings) -> None:
                before[:] = [sum(s.steps for s in settings.stages[:n]) for n in range(len(settings.stages))]
                bars.update(bar, total=settings.steps)

            def step_done(number: int, kind: str, step: int, steps: int, loss: float) -> None:
                bars.update(bar, completed=before[number] + step, description=f"{kind} loss {loss:.3f}")

            card = train_dual(
                settings,
                loaded.model,
                loaded.tokenizer,
                sources,
                pad_id=loaded.pad_id,
                out=Path(scratch) / "run" if out is None else out,
                resume=resume,
                begin_from=begin_from,
                class_names=names_by_id(scene_labels()),
                budget_s=None if minutes is None else 60 * minutes,
                planned=planned,
                step_done=step_done,
            )
    except (TrainingRefused, CocoError, ConversationsError) as error:
        console.print(f"[red]{error}[/]", highlight=False)
        raise typer.Exit(2) from error
    card["skipped"] = dict(skipped)
    if out is not None and chosen == "embedded" and scenes and not smoke:
        card["scores"] = _scored(out, scenes, console)
        write_card(out, card)
    if as_json:
        print(json.dumps(card))
    else:
        Console().print(_table(card))
    if smoke and not card["improved"]:
        console.print("[red]a held-out loss did not fall by a tenth[/]")
        raise typer.Exit(1)


def _scored(out: Path, scenes: int, console: Console) -> dict[str, Any]:
    """What the adapters and the crayon prompt in ``out`` answer about held-out scenes."""
    from cli.evaluate_scenes import score
    from cli.train import EVALUATION_SEED
    from llm_server import base_checkpoint
    from serving.weights import WeightStore

    checkpoint = base_checkpoint.checkpoint(WeightStore())
    return score(checkpoint, out, n=scenes, seed=EVALUATION_SEED, console=console, recipe="dual")


def scene_labels() -> dict[str, tuple[int, ...]]:
    """Class indices by the name that a class is called by: several for "wall"."""
    out: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(COCO_PANOPTIC):
        spoken = display_name(name)
        out[spoken] = (*out.get(spoken, ()), index)
    return out


def category_labels() -> dict[str, tuple[int, ...]]:
    """Class index by the full name of a COCO category."""
    return {name: (index,) for index, name in enumerate(COCO_PANOPTIC)}


def object_words(objects: Sequence[NumberedObject]) -> str:
    """The crayon sentence about annotated objects; it numbers them as they are numbered."""
    return verbalize_collavo([CrayonObject(one.name, one.box) for one in objects]).text


def _settings(
    chosen: str, device: str, precision: str | None, seed: int, *, smoke: bool, begin_from: Path | None
) -> DualSettings:
    from llm_server.models import crayon_files
    from llm_server.training import dual_settings as presets

    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device} is not cpu or cuda", param_hint="--device")
    if precision not in (None, "nf4", "nf4-dequantised", "bf16", "fp32"):
        raise typer.BadParameter(f"{precision} is not a precision", param_hint="--precision")
    embedded = presets.EMBEDDED
    if begin_from is not None:
        crayon = begin_from / crayon_files.FOLDER / crayon_files.CONFIG
        embedded = presets.FURTHER if crayon.is_file() else presets.CONTINUED
    settings = presets.TINY if chosen == "tiny" else presets.SEVEN_B if device == "cuda" else embedded
    if chosen not in ("tiny", "embedded"):
        if not Path(chosen).is_dir():
            raise typer.BadParameter(f"{chosen} is not tiny, embedded or a folder", param_hint="--base")
        settings = presets.for_base(settings, Path(chosen).resolve().name)
    elif chosen == "embedded":
        settings = presets.for_base(settings, presets.EMBEDDED.base.name)
    own: Any = {"device": device, **({} if precision is None else {"precision": precision})}
    settings = replace(settings, seed=seed, base=replace(settings.base, **own))
    if smoke:
        cpt, cit = SMOKE_STEPS["tiny" if chosen == "tiny" else "embedded"]
        settings = replace(presets.smoke(settings, cpt=cpt, cit=cit), heldout=min(settings.heldout, 8))
    import torch

    presets.check(settings, cuda=torch.cuda.is_available())
    return settings


def _varied(settings: DualSettings, adapters: str, crayon: str) -> DualSettings:
    from llm_server.training import dual_settings as presets

    if adapters not in ("dual", "single", "vl-only"):
        raise typer.BadParameter(f"{adapters} is not dual, single or vl-only", param_hint="--adapters")
    if crayon not in ("off", "semantic", "both"):
        raise typer.BadParameter(f"{crayon} is not off, semantic or both", param_hint="--crayon")
    uses: Any = (adapters, crayon)
    return presets.varied(settings, *uses)


def _base(settings: DualSettings, chosen: str) -> Base:
    from llm_server.training.bases import load_base, tiny_base

    if chosen == "tiny":
        return tiny_base(settings.seed)
    if chosen != "embedded":
        return load_base(settings.base, Path(chosen))
    from llm_server import base_checkpoint
    from serving.weights import WeightStore

    return load_base(settings.base, base_checkpoint.checkpoint(WeightStore()))


def _sources(
    settings: DualSettings,
    coco: Path | None,
    segments: Path | None,
    conversations: Path | None,
    skipped: Counter[str],
) -> Sources:
    from cli.scene_words import scene_words
    from llm_server.training.coco_pictures import read_pictures
    from llm_server.training.conversations import read_conversations
    from llm_server.training.dual_run import Sources
    from llm_server.training.dual_settings import TrainingRefused
    from llm_server.training.examples import (
        ConversationExamples,
        Examples,
        MixedExamples,
        PictureExamples,
        SceneExamples,
    )
    from llm_server.training.question import Task

    scenes, heldout = (
        SceneExamples(settings, split, scene_words, scene_labels()) for split in ("train", "heldout")
    )
    if coco is None:
        return Sources(scenes, heldout)
    crayon = settings.crayon
    pictures = list(
        read_pictures(
            coco,
            rows=crayon.rows,
            columns=crayon.columns,
            label_ids=category_labels(),
            segments=segments,
            skipped=skipped,
        )
    )
    by_task: dict[Task, list[tuple[float, Examples]]] = {"object": [(1.0, scenes)], "vl": [(1.0, scenes)]}
    try:
        by_task["object"].append((1.0, PictureExamples(settings, pictures, object_words)))
        if conversations is not None:
            named = {Path(picture.file).name: picture for picture in pictures}
            told = read_conversations(conversations, skipped=skipped)
            by_task["vl"].append(
                (1.0, ConversationExamples(settings, told, named, object_words, skipped=skipped))
            )
    except ValueError as error:
        raise TrainingRefused(str(error)) from error
    return Sources(MixedExamples(settings.seed, by_task), heldout)


def _report(skipped: Counter[str], console: Console) -> None:
    """What was passed over in the data, by reason."""
    if skipped:
        table = Table("passed over", "records")
        for reason, count in skipped.most_common():
            table.add_row(reason, str(count))
        console.print(table)


def _table(card: dict[str, Any]) -> Table:
    table = Table("held out", "base alone", "trained", title=f"{card['steps']} steps, {card['seconds']} s")
    for key, before in card["heldout_loss"]["base"].items():
        table.add_row(f"loss: {key}", f"{before:.3f}", f"{card['heldout_loss']['trained'][key]:.3f}")
    return table
