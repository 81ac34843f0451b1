"""The id that follows one request through every process of the mesh.

It arrives in the metadata `x-request-id` or is made here, lives in a context variable for as long as the
call runs, is written on each log line, in each error, and is passed on by the client interceptor.
"""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar
from typing import Final

REQUEST_ID_HEADER: Final = "x-request-id"
MAX_REQUEST_ID_LENGTH: Final = 128

# What is safe in a log line, an HTTP header, a shell and a URL. A caller's id outside of this is replaced,
# not repaired.
_ACCEPTED: Final = re.compile(rf"[A-Za-z0-9._:/+=@-]{{1,{MAX_REQUEST_ID_LENGTH}}}")

_current: ContextVar[str] = ContextVar("polysight_request_id", default="")


def current_request_id() -> str:
    """The id of the request being served in this context; empty outside of a request."""
    return _current.get()


def new_request_id() -> str:
    """A fresh id: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def accept_request_id(offered: str | bytes | None) -> str:
    """Return the caller's id if it is short printable ASCII of the accepted kind, else a fresh one."""
    if isinstance(offered, str) and _ACCEPTED.fullmatch(offered):
        return offered
    return new_request_id()


def set_request_id(request_id: str) -> None:
    """Make `request_id` the current one for the rest of this context.

    There is no reset: grpc.aio runs each call in a context of its own, which ends with the call.
    """
    _current.set(request_id)
