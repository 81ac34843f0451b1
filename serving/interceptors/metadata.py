"""Metadata of a call on the server's side."""

from __future__ import annotations

from typing import cast

from serving.interceptors.around import Context

Trailers = tuple[tuple[str, str | bytes], ...]


def received(context: Context, key: str) -> str | bytes | None:
    """The first value that the caller sent for `key` (lower case), or None."""
    for name, value in context.invocation_metadata() or ():
        if name == key:
            return value
    return None


def trailers(context: Context) -> Trailers:
    """What will be sent after the last message, as set so far."""
    return cast("Trailers", tuple(context.trailing_metadata() or ()))


def add_trailer(context: Context, key: str, value: str | bytes) -> None:
    """Add one trailer, unless `key` is there already, and keep the others."""
    present = trailers(context)
    if all(name != key for name, _ in present):
        context.set_trailing_metadata((*present, (key, value)))
