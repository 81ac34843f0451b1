"""The life of a server process: listen, warm up, serve, drain, exit.

It listens from the start and answers health and reflection while it warms up, so that a probe sees
NOT_SERVING and not a refused connection. `serve` runs until SIGTERM or SIGINT; `Server` is the same without
signals and exit codes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from opentelemetry.trace import TracerProvider

from serving.health import Health
from serving.interceptors import server_interceptors
from serving.interceptors.admit import AdmitInterceptor
from serving.interceptors.device import DeviceInterceptor
from serving.settings import ServerSettings
from serving.telemetry.metrics import Metrics

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name
_CHANNELZ = "grpc.channelz.v1.Channelz"


@dataclass(frozen=True)
class Servicer:
    """A service of the process: its full name in the contract, and what registers it on a server."""

    full_name: str
    add: Callable[[grpc.aio.Server], None]


class AddressInUseError(Exception):
    """A port cannot be listened on; the message says which, and which setting changes it."""


class Server:
    """A listening server. `async with Server(...) as server: await server.ready()`; leaving drains it.

    `device_lost` is set when a call has met a device that is lost to this process. From then on health says
    NOT_SERVING and calls are refused; whoever runs the server should end the process.
    """

    def __init__(
        self,
        *,
        settings: ServerSettings,
        servicers: Sequence[Servicer],
        metrics: Metrics,
        provider: TracerProvider | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._servicers = tuple(servicers)
        self._provider = provider
        self._health = Health(servicer.full_name for servicer in servicers)
        self._admit = AdmitInterceptor(settings.max_concurrent_calls)
        self._device = DeviceInterceptor(self._lose_device)
        self.device_lost = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """`host:port` as bound; the port is known once started."""
        return join_address(self._settings.host, self._port)

    async def start(self) -> None:
        """Listen, warm or not. Raises AddressInUseError."""
        server = grpc.aio.server(
            interceptors=server_interceptors(
                self._metrics, admit=self._admit, device=self._device, provider=self._provider
            ),
            options=server_options(self._settings),
        )
        for servicer in self._servicers:
            servicer.add(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        channelz.add_channelz_servicer(server)
        names = [*(servicer.full_name for servicer in self._servicers), _HEALTH, _CHANNELZ, _REFLECTION]
        reflection.enable_server_reflection(names, server)
        wanted = join_address(self._settings.host, self._settings.port)
        try:
            self._port = server.add_insecure_port(wanted)
        except RuntimeError as error:
            raise AddressInUseError(_busy("gRPC", wanted, self._settings, "port")) from error
        await server.start()
        self._server = server
        if self._settings.metrics_port:
            try:
                self._metrics.start_http(self._settings.host.strip("[]"), self._settings.metrics_port)
            except OSError as error:
                await self.stop(0)
                taken = join_address(self._settings.host, self._settings.metrics_port)
                raise AddressInUseError(_busy("metrics", taken, self._settings, "metrics_port")) from error

    async def ready(self) -> None:
        """The warm-up is done: admit calls, and say so to those who ask for health."""
        self._admit.open()
        await self._health.set_serving(True)

    async def not_ready(self) -> None:
        """Say NOT_SERVING and end the watches, but keep serving who calls all the same."""
        await self._health.close()

    async def _lose_device(self) -> None:
        await self.not_ready()
        self.device_lost.set()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let those in progress finish for `grace_s` seconds, cancel the rest.

        May be called again while it runs, with a shorter grace.
        """
        await self._health.close()
        if self._server is not None:
            await self._server.stop(grace_s)
        await asyncio.to_thread(self._metrics.close)

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain."""
        await self.stop(self._settings.drain_grace_s)


def server_options(settings: ServerSettings) -> list[tuple[str, int]]:
    """gRPC channel arguments of a server."""
    options = {
        # Two processes on one port would share its calls at random: a busy port must be an error.
        "grpc.so_reuseport": 0,
        "grpc.max_receive_message_length": settings.max_message_bytes,
        "grpc.max_send_message_length": settings.max_message_bytes,
        "grpc.keepalive_time_ms": _ms(settings.keepalive_time_s),
        "grpc.keepalive_timeout_ms": _ms(settings.keepalive_timeout_s),
        # The ping itself has a time limit of its own, a minute by default, and the longer of the two counts.
        "grpc.http2.ping_timeout_ms": _ms(settings.keepalive_timeout_s),
        "grpc.keepalive_permit_without_calls": 1,
        # Clients of the mesh ping every few seconds; by default a server hangs up on that ("too_many_pings").
        "grpc.http2.min_ping_interval_without_data_ms": 1000,
        "grpc.http2.max_ping_strikes": 0,
    }
    if settings.max_connection_age_s:
        options["grpc.max_connection_age_ms"] = _ms(settings.max_connection_age_s)
        options["grpc.max_connection_age_grace_ms"] = _ms(settings.max_connection_age_grace_s)
    return list(options.items())


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _busy(what: str, address: str, settings: ServerSettings, field: str) -> str:
    variable = f"{settings.model_config.get('env_prefix', '')}{field}".upper()
    return f"cannot listen on {address} ({what}): in use or not allowed; {variable} sets another port"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
