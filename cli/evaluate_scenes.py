"""`polysight evaluate scenes`: exact answers about generated scenes that nobody was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from cli.progress_bars import progress_bars

if TYPE_CHECKING:
    from llm_server.evaluation.scene_questions import RecipeName
    from llm_server.evaluation.scene_sight import MapSight

AdaptersOption = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder with object/ and vl/; the shipped ones."),
]
_RUN_CARD: Final = "run_card.json"
"""What `polysight train dual` leaves."""
PrecisionOption = Annotated[str, typer.Option(help="Of the base: nf4 (as served), bf16 or fp32.")]


def scenes(
    n: Annotated[int, typer.Option("--n", min=1, help="How many held-out scenes.")] = 300,
    seed: Annotated[int, typer.Option(help="Which held-out scenes; none is ever trained on.")] = 12345,
    questions: Annotated[
        str,
        typer.Option(
            help="scenes or dual: whose kinds; auto: those of the recipe that made the adapters, by what it left."
        ),
    ] = "auto",
    noise: Annotated[
        bool,
        typer.Option(
            "--noise", help="Seen through the noise model of the experts; right is what the words say."
        ),
    ] = False,
    others: Annotated[
        int,
        typer.Option(min=0, help="Questions a scene of other kinds than count, existence, relation, text."),
    ] = 3,
    adapters: AdaptersOption = None,
    precision: PrecisionOption = "nf4",
    base: Annotated[bool, typer.Option(help="Ask the base without adapters too.")] = True,
    crayon: Annotated[
        bool,
        typer.Option(help="Show the crayon maps too, if the folder has a crayon/; --no-crayon: words only."),
    ] = True,
    show: Annotated[int, typer.Option(min=0, help="How many wrong answers to print.")] = 0,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File for all wrong answers, JSONL.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the last line.")] = False,
) -> None:
    """Exact answers on generated scenes: both adapters on, and the base without them beside it."""
    from llm_server import base_checkpoint
    from serving.weights import WeightStore

    check_precision(precision)
    folder = adapters or shipped_adapters()
    recipe = _recipe(questions, folder)
    console = Console(stderr=True)
    checkpoint = base_checkpoint.checkpoint(WeightStore())
    report = score(
        checkpoint,
        folder,
        n=n,
        seed=seed,
        console=console,
        precision=precision,
        show=show,
        recipe=recipe,
        noise=noise,
        others=others,
        base=base,
        crayon=crayon,
        wrong_file=out,
    )
    Console(stderr=as_json).print(_table(report))
    if as_json:
        print(json.dumps(report))


def _recipe(questions: str, adapters: Path) -> RecipeName:
    """The name of a recipe; raises typer.BadParameter for one that there is not."""
    if questions == "scenes":
        return "scenes"
    if questions == "dual":
        return "dual"
    if questions != "auto":
        raise typer.BadParameter(f"{questions} is not auto, scenes or dual", param_hint="--questions")
    from llm_server.models.crayon_files import FOLDER

    return "dual" if (adapters / FOLDER).is_dir() or (adapters / _RUN_CARD).is_file() else "scenes"


def check_precision(precision: str) -> None:
    """Raises typer.BadParameter for a precision that there is not."""
    if precision not in ("nf4", "bf16", "fp32"):
        raise typer.BadParameter(f"{precision} is not nf4, bf16 or fp32", param_hint="--precision")


def shipped_adapters() -> Path:
    """The folder of the adapters that come with the package."""
    from llm_server import base_checkpoint

    return Path(base_checkpoint.__file__).parent / "adapters"


def load(checkpoint: Path, adapters: Path, *, precision: Any = "nf4") -> tuple[Any, Any]:
    """(peft model with both adapters on, tokenizer), for answering many questions at once in this process."""
    from llm_server import base_model
    from llm_server.training.fused_lora import fuse
    from llm_server.training.packed_attention import register
    from llm_server.training.recipe import load_adapters

    # The served values, dequantised once instead of at every step: the same products, bit for bit (tested).
    loaded: Any = "nf4-dequantised" if precision == "nf4" else precision
    model = load_adapters(base_model.load_model(checkpoint, loaded, attention=register()), adapters).eval()
    fuse(model)
    return model, base_model.load_tokenizer(checkpoint)


def map_sight(model: Any, adapters: Path, *, base: str) -> MapSight | None:
    """What shows scenes to ``model`` as crayon maps; None if no crayon prompt lies beside the adapters."""
    from cli.train_dual import scene_labels
    from llm_server.evaluation.crayon_reading import CrayonReader
    from llm_server.evaluation.scene_sight import MapSight
    from llm_server.models.crayon_files import FOLDER, load_crayon

    if not (adapters / FOLDER).is_dir():
        return None
    crayon = load_crayon(adapters / FOLDER, base=base)
    shape = crayon.shape
    return MapSight(CrayonReader(model, crayon), shape.rows, shape.columns, scene_labels())


def score(
    checkpoint: Path,
    adapters: Path,
    *,
    n: int,
    seed: int,
    console: Console,
    precision: Any = "nf4",
    show: int = 0,
    recipe: RecipeName = "scenes",
    noise: bool = False,
    others: int = 3,
    base: bool = True,
    crayon: bool = True,
    wrong_file: Path | None = None,
) -> dict[str, Any]:
    """The report on ``n`` held-out scenes with the adapters of a folder; wrong answers go to console and file."""
    from cli.scene_words import scene_words
    from llm_server import base_checkpoint
    from llm_server.evaluation.scenes import evaluate_with_and_without

    model, tokenizer = load(checkpoint, adapters, precision=precision)
    sight = map_sight(model, adapters, base=base_checkpoint.NAME) if crayon else None
    with progress_bars(console) as progress:
        bar = progress.add_task("scenes", total=(2 if base else 1) * n)
        report, scores = evaluate_with_and_without(
            model,
            tokenizer,
            seed=seed,
            n=n,
            verbalize=scene_words,
            recipe=recipe,
            noise=noise,
            others=others,
            base=base,
            sight=sight,
            advance=lambda done: progress.advance(bar, done),
        )
    for wrong in scores.wrong[:show]:
        console.print(
            f"{wrong.kind}: {wrong.question} expected {wrong.expected!r}, said {wrong.said!r}",
            highlight=False,
            markup=False,
        )
    if wrong_file is not None:
        lines = (json.dumps(vars(wrong), ensure_ascii=False) for wrong in scores.wrong)
        wrong_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return report


def _table(report: dict[str, Any]) -> Table:
    seen = "through the noise model" if report["noise"] else "as perfect experts see them"
    table = Table(
        "kind",
        "asked",
        "both adapters",
        "base alone",
        title=f"{report['n']} held-out scenes, seed {report['seed']}, {seen}",
    )
    base = report["base"]
    for kind, cell in report["kinds"].items():
        alone = "" if base is None else f"{base['kinds'][kind]['exact']:.3f}"
        table.add_row(kind, str(cell["asked"]), f"{cell['exact']:.3f}", alone)
    table.add_section()
    for key in ("all_kinds", "mean_of_kinds", "worst_kind", "declines", "false_declines"):
        alone = "" if base is None else f"{base[key]:.3f}"
        table.add_row(key.replace("_", " "), "", f"{report[key]:.3f}", alone)
    for form, cell in report["instructions"].items():
        other = None if base is None else base["instructions"][form]
        for what in ("followed", "exact"):
            alone = "" if other is None else f"{other[what]:.3f}"
            table.add_row(f"{form.replace('_', ' ')}: {what}", str(cell["asked"]), f"{cell[what]:.3f}", alone)
    return table
