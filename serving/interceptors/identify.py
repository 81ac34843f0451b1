"""Gives each call its request id: the caller's if it is a good one, else a fresh one, told back in the
trailers.
"""

from __future__ import annotations

from typing import Any

from serving.interceptors.around import Behaviour, Context
from serving.interceptors.metadata import add_trailer, received
from serving.request_id import REQUEST_ID_HEADER, accept_request_id, set_request_id


class IdentifyInterceptor:
    """Outermost, so that everything inside knows the id."""

    async def around(self, method: str, behaviour: Behaviour, request: Any, context: Context) -> Any:
        """Set the id for this context, and add it to whatever trailers the handler set."""
        request_id = accept_request_id(received(context, REQUEST_ID_HEADER))
        set_request_id(request_id)
        add_trailer(context, REQUEST_ID_HEADER, request_id)
        reply = await behaviour(request, context)
        add_trailer(context, REQUEST_ID_HEADER, request_id)  # the handler may have set trailers of its own
        return reply
