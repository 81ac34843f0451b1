"""`polysight weights`: what the mesh needs on disk, fetched, verified and exported before anything serves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from serving.weights import WeightStore

YOLO_ARTIFACTS = ("yolo26n", "yolo26n-seg")
BASE_ARTIFACT = "smollm2-135m-instruct-gguf"

app = typer.Typer(help="Fetch, verify and list the weights of the mesh.", no_args_is_help=True)


@app.command("list")
def list_artifacts(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the last line.")] = False,
) -> None:
    """Every artifact of the manifest: size, licence, whether it is cached."""
    store = WeightStore()
    rows = [store.status(info.name) for info in store.list()]
    if as_json:
        print(
            json.dumps(
                {
                    "root": str(store.root),
                    "artifacts": [
                        {
                            "name": row.info.name,
                            "sha256": row.info.sha256,
                            "size": row.info.size,
                            "licence": row.info.licence,
                            "cached": row.cached,
                        }
                        for row in rows
                    ],
                }
            )
        )
        return
    table = Table("artifact", "MB", "licence", "cached", "what it is")
    for row in rows:
        info = row.info
        table.add_row(
            info.name, f"{info.size / 1e6:.1f}", info.licence, "yes" if row.cached else "no", info.note
        )
    Console().print(table)


@app.command()
def fetch(
    artifacts: Annotated[
        list[str] | None, typer.Argument(help="Which artifacts; none means all, and their exports.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the last line.")] = False,
) -> None:
    """Downloads what is missing, verifies it, and builds what is derived from it (ONNX graphs, the language base)."""
    store = WeightStore()
    console = Console(stderr=True)
    names = artifacts or [info.name for info in store.list()]
    paths = dict(zip(names, map(str, store.fetch_many(names)), strict=True)) | prepare(store, names, console)
    if as_json:
        print(json.dumps({"root": str(store.root), "paths": paths}))
    else:
        console.print(f"all weights are in {store.root}")


@app.command()
def verify(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the last line.")] = False,
) -> None:
    """Hashes every cached artifact again."""
    store = WeightStore()
    verified = [
        info.name for info in store.list() if store.status(info.name).cached and store.verify(info.name)
    ]
    if as_json:
        print(json.dumps({"verified": verified}))
    else:
        Console().print(f"verified: {', '.join(verified) or 'nothing is cached'}")


def prepare(store: WeightStore, names: Iterable[str], console: Console) -> dict[str, str]:
    """Builds what is derived from the named artifacts, so that starting the mesh only reads; paths by product.

    Raises UnknownArtifactError or WeightsUnavailableError as the store does.
    """
    products: dict[str, str] = {}
    for name in names:
        if name in YOLO_ARTIFACTS:
            from serving.weights.yolo_export import exported_onnx

            with console.status(f"exporting {name} to ONNX (once)"):
                products[f"{name}.onnx"] = str(exported_onnx(store, name))
        elif name == BASE_ARTIFACT:
            from llm_server.base_checkpoint import prepare_base

            with console.status("converting the language model (once)"):
                products["smollm2-135m-instruct"] = str(prepare_base(store))
    return products
