"""The real gateway among dummies, all in one process and one event loop, on free ports: for tests.

async with DummyMesh(absent={"ocr"}) as mesh:
    reply = await mesh.polysight.Perceive(request)
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any, Self

import grpc.aio

from bench.dummies import DummyExpert, DummyLanguageModels
from gateway.experts import KINDS
from gateway.llm import LLM_SERVER
from gateway.settings import GatewaySettings
from gateway.wiring import build
from polysight.gateway.v1 import polysight_pb2_grpc
from serving.channel import open_channel
from serving.grpc_server import Server, Servicer
from serving.settings import ServerSettings
from serving.telemetry.metrics import Metrics


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class DummyMesh:
    """Four experts, a language model server and the gateway.

    Args:
        absent: names of servers that are not started ("ocr", "llm_server"); their addresses lead nowhere.
        settings: of the gateway, besides addresses and ports.

    Attributes:
        experts: the dummies, by name.
        llm: the language model dummy.
        polysight: stub of the gateway, once entered.
        channel: the channel it uses.
        metrics: of the gateway.
    """

    polysight: polysight_pb2_grpc.PolysightServiceAsyncStub
    channel: grpc.aio.Channel

    def __init__(self, *, absent: Iterable[str] = (), **settings: Any) -> None:
        self.experts = {kind.name: DummyExpert(kind) for kind in KINDS}
        self.llm = DummyLanguageModels()
        self.metrics = Metrics("gateway")
        self._absent = frozenset(absent)
        self._ports = {name: free_port() for name in (*self.experts, LLM_SERVER)}
        self._settings = settings
        self._servers: dict[str, Server] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start all that are not absent, the gateway last."""
        for name in self._ports:
            if name not in self._absent:
                await self.start(name)
        settings = GatewaySettings.model_validate(
            {"port": 0, "metrics_port": 0, "drain_grace_s": 0}
            | {f"{name}_address": f"127.0.0.1:{port}" for name, port in self._ports.items()}
            | self._settings
        )
        gateway = build(settings, self.metrics)
        self._stack.push_async_callback(gateway.close)
        server = Server(settings=settings, servicers=[gateway.service.servicer()], metrics=self.metrics)
        await self._stack.enter_async_context(server)
        await gateway.warm_up()
        await server.ready()
        self.channel = open_channel(server.address, max_attempts=1)
        self._stack.push_async_callback(self.channel.close)
        self.polysight = polysight_pb2_grpc.PolysightServiceStub(self.channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop everybody."""
        await self._stack.aclose()
        for name in list(self._servers):
            await self.stop(name)

    async def start(self, name: str) -> None:
        """Start a server, at the address where the gateway looks for it."""
        servicer = self._servicer(name)
        settings = ServerSettings(port=self._ports[name], drain_grace_s=0)
        server = Server(settings=settings, servicers=[servicer], metrics=Metrics(name))
        await server.start()
        await server.ready()
        self._servers[name] = server

    async def stop(self, name: str) -> None:
        """Stop a server at once: calls in progress break, new ones find nobody."""
        await self._servers.pop(name).stop(0)

    def _servicer(self, name: str) -> Servicer:
        return self.llm.servicer() if name == LLM_SERVER else self.experts[name].servicer()
