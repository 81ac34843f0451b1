"""`polysight evaluate`: scores of the served language model, on data that it was not trained on."""

from __future__ import annotations

import typer

from cli.evaluate_ablation import ablation
from cli.evaluate_benchmarks import benchmarks
from cli.evaluate_coco_probes import coco_probes
from cli.evaluate_free import free
from cli.evaluate_scenes import scenes, score

#: `score` is what `polysight train` scores with what it has made.
__all__ = ["app", "score"]

app = typer.Typer(help="Score the language model with its adapters.", no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Score the language model with its adapters."""


app.command("scenes")(scenes)
app.command("ablation")(ablation)
app.command("free")(free)
app.command("coco-probes")(coco_probes)
app.command("benchmarks")(benchmarks)
