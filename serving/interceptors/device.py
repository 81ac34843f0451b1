"""Notices that the device of the process is lost, and answers for it from then on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from serving.engine.protocol import DeviceLostError
from serving.errors import ShuttingDownError
from serving.interceptors.around import Behaviour, Context

log = structlog.get_logger(__name__)


class DeviceInterceptor:
    """A call that meets a lost device, and all that come later, end as UNAVAILABLE: another process may do them.

    `on_lost` is called once, before the first of them is answered.
    """

    def __init__(self, on_lost: Callable[[], Awaitable[None]]) -> None:
        self._on_lost = on_lost
        self._lost = False

    async def around(self, method: str, behaviour: Behaviour, request: Any, context: Context) -> Any:
        """Run the call; refuse it at once where the device is known to be lost."""
        if self._lost:
            raise _refusal()
        try:
            return await behaviour(request, context)
        except DeviceLostError as error:
            if not self._lost:
                self._lost = True
                log.exception("device lost", method=method)
                await self._on_lost()
            raise _refusal() from error


def _refusal() -> ShuttingDownError:
    return ShuttingDownError(
        "the device of this server is lost; it takes no more work and ends", metadata={"cause": "device_lost"}
    )
