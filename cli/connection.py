"""How the command line reaches a running mesh, and how it explains an error that comes back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn, cast

import grpc
import typer
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from rich.console import Console

DEFAULT_GATEWAY = os.environ.get("POLYSIGHT_GATEWAY", "127.0.0.1:50060")
MAX_MESSAGE_BYTES = 64 * 2**20

GatewayOption = Annotated[
    str, typer.Option("--gateway", help="host:port of the gateway (POLYSIGHT_GATEWAY).", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on the last line.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds until the call is given up.")]


@contextmanager
def channel_to(address: str) -> Iterator[grpc.Channel]:
    """A channel to `address` that takes messages as large as the mesh sends them."""
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ]
    with grpc.insecure_channel(address, options=options) as channel:
        yield channel


def read_image(path: Path) -> bytes:
    """The bytes of an image file; exits with code 2 and says why if there is none."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from error


def explain(error: grpc.RpcError) -> dict[str, object]:
    """What a failed call says: code, message, reason and metadata of its `google.rpc.ErrorInfo`."""
    told: dict[str, object] = {"code": error.code().name, "message": error.details() or ""}
    # Every RpcError that grpc raises from a call is that call too; only its base class does not say so.
    status = rpc_status.from_call(cast(grpc.Call, error))
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            told |= {"reason": info.reason, "metadata": dict(info.metadata)}
    return told


def fail(error: grpc.RpcError, address: str, *, as_json: bool) -> NoReturn:
    """Says what went wrong and what to do about it, and exits with code 1."""
    told = explain(error)
    if as_json:
        print(json.dumps({"error": told}))
    console = Console(stderr=True)
    if error.code() == grpc.StatusCode.UNAVAILABLE and "reason" not in told:
        console.print(
            f"[red]nothing answers at {address}[/]: start the mesh with `polysight up`, "
            "or name its gateway with --gateway"
        )
    else:
        console.print(f"[red]{told.get('reason', told['code'])}[/]: {told['message']}", highlight=False)
    sys.exit(1)
