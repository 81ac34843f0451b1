"""Where the processes of a mesh listen, for the commands that talk to each of them."""

from __future__ import annotations

from typing import Annotated

import typer

AddressOptions = Annotated[
    str, typer.Option("--host", help="Host that the six processes listen on, at their usual ports.")
]
