"""Turns calls away while the server cannot do them: before its warm-up, and above its limit of calls in
progress.
"""

from __future__ import annotations

from typing import Any, Final

from serving.errors import NotReadyError, QueueFullError
from serving.interceptors.around import Behaviour, Context

_RETRY_WARMING_S: Final = 1.0
_RETRY_BUSY_S: Final = 0.1


class AdmitInterceptor:
    """Health, reflection and channelz always pass: a busy server is still a healthy one."""

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._calls = 0
        self._ready = False

    def open(self) -> None:
        """The warm-up is done: admit calls from now on."""
        self._ready = True

    async def around(self, method: str, behaviour: Behaviour, request: Any, context: Context) -> Any:
        """Run the call, or refuse it at once with a hint when to come back."""
        if not self._ready:
            service = method.removeprefix("/").rpartition("/")[0]
            raise NotReadyError(
                "the server is still warming up",
                metadata={"service": service},
                retry_after_s=_RETRY_WARMING_S,
            )
        if self._calls >= self._max_calls:
            raise QueueFullError(
                f"{self._calls} calls are in progress, which is this server's limit",
                metadata={"in_progress": str(self._calls)},
                retry_after_s=_RETRY_BUSY_S,
            )
        self._calls += 1
        try:
            return await behaviour(request, context)
        finally:
            self._calls -= 1
