"""`polysight train`: the adapters `object` and `vl`, trained from generated scenes by the first recipe.

`polysight train --out DIR` is `polysight train scenes --out DIR`; `polysight train dual` is in `cli.train_dual`,
`polysight train moai` in `cli.train_moai`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from cli.train_dual import dual
from cli.train_moai import moai

SMOKE_STEPS = 8
SMOKE_SCENES = 10
EVALUATION_SEED = 12345


class _ScenesByDefault(TyperGroup):
    """Without the name of a command it is ``scenes``: `polysight train --out DIR` is older than the others."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts ``scenes`` in front of options."""
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else ["scenes", *args])


app = typer.Typer(
    cls=_ScenesByDefault,
    help="Train the language model's adapters; without a command: scenes.",
    no_args_is_help=False,
)
app.command("dual")(dual)
app.command("moai")(moai)


@app.command("scenes")
def train(
    out: Annotated[Path, typer.Option(help="Folder for object/, vl/ and recipe.json.")],
    seed: Annotated[int, typer.Option(help="Of scenes, questions and initial weights.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps; the recipe's own number if not given.")
    ] = None,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help=f"{SMOKE_STEPS} steps and {SMOKE_SCENES} scenes: does it run at all?"),
    ] = False,
    scenes: Annotated[
        int, typer.Option(min=0, help="Held-out scenes to score afterwards; 0 for none.")
    ] = 300,
    resume: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Adapters to go on from, with the recipe's last stage only."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The run card as one JSON object on the last line.")
    ] = False,
) -> None:
    """Trains both adapters on the CPU (under 45 minutes on 2 cores), scores them, and writes them with their card."""
    from cli.scene_words import scene_words
    from llm_server import base_checkpoint
    from llm_server.training import cards, recipe
    from serving.weights import WeightStore

    console = Console(stderr=True)
    chosen = recipe.Recipe(seed=seed)
    if smoke or steps is not None:
        chosen = recipe.scaled(chosen, SMOKE_STEPS if steps is None else steps)
    checkpoint = base_checkpoint.checkpoint(WeightStore())
    console.print(f"training {chosen.steps} steps into {out}", highlight=False)
    card = recipe.train(chosen, checkpoint=checkpoint, verbalize=scene_words, out=out, resume=resume)
    wanted = min(scenes, SMOKE_SCENES) if smoke else scenes
    if wanted:
        from cli.evaluate import score

        card["scores"] = score(checkpoint, out, n=wanted, seed=EVALUATION_SEED, console=console, others=0)
    cards.write(card, out)
    if as_json:
        print(json.dumps(card))
        return
    table = Table("what", "value")
    for key in ("recipe", "seed", "steps", "answers", "data_sha256", "seconds"):
        table.add_row(key, str(card[key]))
    table.add_row("last loss", str(card["loss"][-1]["loss"]) if card["loss"] else "-")
    for kind, share in card.get("scores", {}).items():
        table.add_row(f"score: {kind}", str(share))
    Console().print(table)
