"""The gateway on the wire: translates, does not think."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from gateway.answer import Answerer
from gateway.perceive import Perceiver
from polysight.gateway.v1 import polysight_pb2, polysight_pb2_grpc
from serving.server import Servicer

FULL_NAME = polysight_pb2.DESCRIPTOR.services_by_name["PolysightService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class PolysightService(polysight_pb2_grpc.PolysightServiceServicer):
    """`polysight.gateway.v1.PolysightService`. Field rules are checked, and errors written, by interceptors."""

    def __init__(self, perceiver: Perceiver, answerer: Answerer) -> None:
        self._perceiver = perceiver
        self._answerer = answerer

    async def Perceive(
        self, request: polysight_pb2.PerceiveRequest, context: Context
    ) -> polysight_pb2.PerceiveResponse:
        """Asks the experts."""
        return await self._perceiver.perceive(request, context.time_remaining())

    async def Answer(
        self, request: polysight_pb2.AnswerRequest, context: Context
    ) -> AsyncIterator[polysight_pb2.AnswerResponse]:
        """Asks the experts, then the language model."""
        async with aclosing(self._answerer.answer(request, context.time_remaining())) as events:
            async for event in events:
                yield event

    def servicer(self) -> Servicer:
        """This service as `serving.server.serve` takes it."""
        return Servicer(
            FULL_NAME, lambda server: polysight_pb2_grpc.add_PolysightServiceServicer_to_server(self, server)
        )
