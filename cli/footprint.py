"""`polysight models footprint MODEL...`: bytes of weights in each precision, computed from shapes without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.connection import JsonOption

if TYPE_CHECKING:
    from llm_server.models.dimensions import ModelDimensions


def footprint(
    models: Annotated[
        list[str], typer.Argument(help="moai-7b, collavo-7b, or a folder with a checkpoint of either kind.")
    ],
    precision: Annotated[
        str,
        typer.Option(help="Precisions, separated by commas: fp32, bf16, fp16, int8, nf4, reference-4bit."),
    ] = "bf16,reference-4bit,nf4",
    as_json: JsonOption = False,
) -> None:
    """Bytes of a model's weights, without the experts' networks; reference-4bit skips what the published code skips."""
    from llm_server.models.checkpoint import build
    from llm_server.models.checkpoint_dimensions import CheckpointError
    from llm_server.models.footprint import footprint as computed
    from llm_server.models.precision import precision as named

    console = Console(stderr=True)
    told: dict[str, Any] = {}
    table = Table()
    for column in ("model", "precision", "bytes", "GB", "quantised"):
        table.add_column(column, no_wrap=True)
    try:
        chosen = [named(name.strip()) for name in precision.split(",")]
        for name in models:
            model = build(_dimensions(name))
            told[name] = {"tensors": len(list(model.parameters())), "bytes": {}, "quantised_parameters": {}}
            for each in chosen:
                found = computed(model, each)
                told[name]["parameters"] = found.parameters
                told[name]["bytes"][each.name] = found.total
                told[name]["quantised_parameters"][each.name] = found.quantised_parameters
                table.add_row(
                    name,
                    each.name,
                    f"{found.total:,}",
                    f"{found.total / 1e9:.2f}",
                    f"{found.quantised_parameters / found.parameters:.0%}",
                )
    except (CheckpointError, ValueError) as error:
        console.print(f"[red]{error}[/]", highlight=False)
        raise typer.Exit(2) from error
    (console if as_json else Console()).print(table)
    if as_json:
        typer.echo(json.dumps(told))


def _dimensions(name: str) -> ModelDimensions:
    """Of a released model, or of a checkpoint folder. Raises ValueError for anything else."""
    from llm_server.models.checkpoint import tensor_files
    from llm_server.models.checkpoint_dimensions import checkpoint_dimensions
    from llm_server.models.dimensions import RELEASED

    if name in RELEASED:
        return RELEASED[name]
    folder = Path(name)
    if not folder.is_dir():
        raise ValueError(f"{name} is neither one of {', '.join(RELEASED)} nor a folder")
    shapes = {key: file.shape for key, file in tensor_files(folder).items()}
    return checkpoint_dimensions(folder, shapes)
