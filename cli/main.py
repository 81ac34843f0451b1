"""The `polysight` command. Each subcommand is a module; nothing heavy is imported before it is needed."""

from __future__ import annotations

import logging
import os

# Before any numeric library is loaded: spinning OpenMP threads of processes that share cores starve one another.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer
from rich.console import Console
from rich.logging import RichHandler

from cli import adapters, engines, evaluate, models, parity, train, weights
from cli.ask import ask
from cli.demo import demo
from cli.doctor import doctor
from cli.perceive import perceive
from cli.up import up
from serving.weights import WeightsUnavailableError

app = typer.Typer(
    help="A picture and a question in, a grounded answer out: vision experts and a dual-QLoRA language model.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.command()(up)
app.command()(ask)
app.command()(perceive)
app.command()(doctor)
app.command()(demo)
app.add_typer(models.app, name="models")
app.add_typer(adapters.app, name="adapters")
app.add_typer(weights.app, name="weights")
app.add_typer(parity.app, name="parity")
app.add_typer(engines.app, name="engines")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(train.app, name="train")


def main() -> None:
    """Entry point of the console script."""
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    try:
        app()
    except WeightsUnavailableError as error:
        console.print(f"[red]{error}[/]", highlight=False)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
