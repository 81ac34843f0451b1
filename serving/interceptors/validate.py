"""Holds each request against the field rules of the contract, before the handler sees it."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.message import Message

from serving.field_rules import FieldRules
from serving.interceptors.around import Behaviour, Context


class ValidateInterceptor:
    """Innermost. Streamed requests pass: none of the mesh's services has any."""

    def __init__(self, rules: FieldRules) -> None:
        self._rules = rules

    async def around(self, method: str, behaviour: Behaviour, request: Any, context: Context) -> Any:
        """Run the call if the request keeps the rules; raises InvalidFieldError if not."""
        if isinstance(request, Message) and (doubt := self._rules.screen(request)) is not None:
            # The full check takes tens of milliseconds of interpreted CEL: not on the event loop.
            await asyncio.to_thread(self._rules.judge, request, doubt)
        return await behaviour(request, context)
