"""`polysight adapters`: which adapters a running language model server has, and changing that while it answers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Annotated, Any

import grpc
import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from cli.connection import JsonOption, channel_to, fail
from polysight.llm.v1 import adapter_admin_pb2 as admin_pb2
from polysight.llm.v1 import adapter_admin_pb2_grpc as admin_grpc
from polysight.llm.v1 import generation_pb2 as llm_pb2
from polysight.llm.v1 import generation_pb2_grpc as llm_grpc

# Reading the files, waiting for a step to end, stacking.
TIMEOUT_S = 60.0
DEFAULT_SERVER = os.environ.get("POLYSIGHT_LLM_SERVER", "127.0.0.1:50065")

ServerOption = Annotated[
    str, typer.Option("--server", help="host:port of the language model server (POLYSIGHT_LLM_SERVER).")
]
NameArgument = Annotated[str, typer.Argument(help="What requests call it.")]

app = typer.Typer(
    help="Adapters of a running language model server: list, load, unload.", no_args_is_help=True
)


@app.command("list")
def list_adapters(server: ServerOption = DEFAULT_SERVER, as_json: JsonOption = False) -> None:
    """Lists the adapters that requests can name."""
    reply = _asked(
        server,
        lambda channel: llm_grpc.GenerationServiceStub(channel).ListAdapters(
            llm_pb2.ListAdaptersRequest(), timeout=TIMEOUT_S
        ),
        as_json=as_json,
    )
    table = Table("name", "model", "rank", "by default", "sha256", "what for")
    for one in reply.adapters:
        default = "yes" if one.by_default else "no"
        table.add_row(one.name, one.model, str(one.rank), default, one.sha256[:12], one.description)
    _tell(reply, table, as_json=as_json)


@app.command()
def load(
    name: NameArgument,
    folder: Annotated[
        str, typer.Option(help="Folder in the server's adapter store; the one of that name if unset.")
    ] = "",
    by_default: Annotated[
        bool | None,
        typer.Option(
            "--by-default/--on-request",
            help="Whether requests that name no adapters get it; unset: as before.",
        ),
    ] = None,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Loads an adapter, or replaces the one of that name. Answers being written keep what they began with."""
    request = admin_pb2.LoadAdapterRequest(name=name, folder=folder, by_default=by_default)
    reply = _asked(
        server,
        lambda channel: admin_grpc.AdapterAdminServiceStub(channel).LoadAdapter(request, timeout=TIMEOUT_S),
        as_json=as_json,
    )
    replaced = f" in place of {reply.replaced_sha256[:12]}" if reply.replaced_sha256 else ""
    _tell(reply, f"{name} is {reply.adapter.sha256[:12]}{replaced}", as_json=as_json)


@app.command()
def unload(name: NameArgument, server: ServerOption = DEFAULT_SERVER, as_json: JsonOption = False) -> None:
    """Takes an adapter away. Answers being written with it are completed."""
    request = admin_pb2.UnloadAdapterRequest(name=name)
    reply = _asked(
        server,
        lambda channel: admin_grpc.AdapterAdminServiceStub(channel).UnloadAdapter(request, timeout=TIMEOUT_S),
        as_json=as_json,
    )
    _tell(reply, f"{name} ({reply.adapter.sha256[:12]}) is no longer there", as_json=as_json)


def _asked(server: str, call: Callable[[grpc.Channel], Any], *, as_json: bool) -> Any:
    """The reply; exits with code 1 and says why if there is none."""
    try:
        with channel_to(server) as channel:
            return call(channel)
    except grpc.RpcError as error:
        fail(error, server, as_json=as_json)


def _tell(reply: Any, for_people: Table | str, *, as_json: bool) -> None:
    Console(stderr=as_json).print(for_people)
    if as_json:
        print(json.dumps(MessageToDict(reply, preserving_proto_field_name=True), ensure_ascii=False))
