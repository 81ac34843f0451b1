"""The standard health service, `grpc.health.v1.Health`, with watches that end when the server drains.

grpcio's own aio servicer keeps a `Watch` open for as long as the caller likes, so that a single client with
health checking would make every shutdown last its whole grace period. Here a watch tells NOT_SERVING and
ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """One state for all services of a process, by full name and as `""` for the process as a whole."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset({"", *services})
        self._serving = False
        self._closed = False
        self._changed = asyncio.Condition()

    async def set_serving(self, serving: bool) -> None:
        """Tell everybody who asks, and everybody who watches. Has no effect once closed."""
        async with self._changed:
            self._serving = serving and not self._closed
            self._changed.notify_all()

    async def close(self) -> None:
        """NOT_SERVING for good, and every watch ends."""
        async with self._changed:
            self._serving, self._closed = False, True
            self._changed.notify_all()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Any:
        """The state now; NOT_FOUND for a service that is not here."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return health_pb2.HealthCheckResponse(status=cast(Any, self._status(request.service)))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> AsyncIterator[Any]:
        """The state now and whenever it changes, until the caller leaves or the server drains."""
        told: int | None = None
        while True:
            async with self._changed:
                while not self._closed and self._status(request.service) == told:
                    await self._changed.wait()
            status = self._status(request.service)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=cast(Any, status))
            if self._closed:
                return

    def _status(self, service: str) -> int:
        if service not in self._services:
            return SERVICE_UNKNOWN
        return SERVING if self._serving else NOT_SERVING
