"""`llm.v1.GenerationService`: translates between the contract and the engine, and thinks nothing of its own."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from llm_server.engine_report import Usage
from llm_server.event_stream import EventStream
from llm_server.faults import EngineClosedFault, QueueFullFault, TooLongFault, UnknownAdapterFault
from llm_server.generation_metrics import GenerationMetrics
from llm_server.replies import (
    adapter_info,
    adapter_scales,
    done,
    model_info,
    model_ref,
    on_the_wire,
    token,
)
from llm_server.request import check_model, check_options, parse_embed, parse_request
from llm_server.sequence import (
    AdapterScales,
    FailedEvent,
    FinishedEvent,
    GenerationRequest,
    Sequence,
    TokenEvent,
)
from llm_server.served_model import ServedModel
from polysight.llm.v1 import generation_pb2, generation_pb2_grpc
from serving.errors import NotReadyError
from serving.grpc_server import Servicer
from serving.image import ImageLimits
from serving.telemetry.metrics import Metrics

FULL_NAME = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]

_WARM_UP = generation_pb2.GenerateRequest(
    turns=[generation_pb2.Turn(role=generation_pb2.ROLE_USER, text="What?")],
    sampling=generation_pb2.SamplingParameters(max_new_tokens=2),
)


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Serves one model, which :meth:`warm_up` loads."""

    def __init__(self, load: Callable[[], ServedModel], metrics: Metrics, *, limits: ImageLimits) -> None:
        """``load`` blocks for as long as it takes, in a thread. ``limits`` are for images sent along."""
        self._load = load
        self._limits = limits
        self._model: ServedModel | None = None
        self._metrics = GenerationMetrics(metrics, self._usage_now)

    def servicer(self) -> Servicer:
        """This service, as a server takes it."""
        return Servicer(FULL_NAME, lambda server: _register(self, server))

    async def warm_up(self) -> None:
        """Load the model and run real generations: one alone, then a full batch, with adapters and without."""
        model = await asyncio.to_thread(self._load)
        self._model = model
        model.engine.watch(self._metrics.on_step)
        # An engine that loads its model itself takes minutes over it.
        await asyncio.to_thread(model.engine.start)
        await asyncio.to_thread(model.constraints.prepare)
        await self._warm(model, model.default_adapters)
        sets: list[AdapterScales] = [(), model.default_adapters]
        full = itertools.islice(itertools.cycle(sets), model.engine.slots)
        await asyncio.gather(*(self._warm(model, adapters) for adapters in full))

    async def _warm(self, model: ServedModel, adapters: AdapterScales) -> None:
        request = model.prompting.warm_up()
        request.MergeFrom(_WARM_UP)
        request.adapters.SetInParent()
        request.adapters.adapters.extend(adapter_scales(adapters))
        stream = EventStream()
        self._submit(model, parse_request(request, model, self._limits, deadline=None), stream)
        async for event in stream:
            if isinstance(event, FailedEvent):
                raise event.error

    async def close(self) -> None:
        """Stop the engine; what it still has is failed. Harmless if nothing was loaded."""
        if self._model is not None:
            await asyncio.to_thread(self._model.engine.close)

    def _usage_now(self) -> Usage:
        return Usage() if self._model is None else self._model.engine.usage

    @property
    def model(self) -> ServedModel:
        """The model. Raises NotReadyError until it is loaded."""
        return self._ready()

    def _ready(self) -> ServedModel:
        if self._model is None:
            raise NotReadyError(
                "the model is being loaded", metadata={"service": FULL_NAME}, retry_after_s=1.0
            )
        return self._model

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        """Stream the answer; a caller who leaves frees the slot before the next step."""
        model = self._ready()
        self._check_room(model)
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        wanted = await asyncio.to_thread(parse_request, request, model, self._limits, deadline=deadline)
        stream = EventStream()
        sequence = self._submit(model, wanted, stream)
        try:
            async for event in stream:
                match event:
                    case TokenEvent():
                        yield generation_pb2.GenerateResponse(token=token(event))
                    case FinishedEvent():
                        self._metrics.on_finished(event, wanted)
                        yield generation_pb2.GenerateResponse(done=done(event, wanted, model))
                    case FailedEvent():
                        raise on_the_wire(event.error, model) from event.error
        finally:
            model.engine.cancel(sequence)

    def _submit(self, model: ServedModel, wanted: GenerationRequest, stream: EventStream) -> Sequence:
        try:
            return model.engine.submit(wanted, stream)
        except (QueueFullFault, EngineClosedFault, UnknownAdapterFault, TooLongFault) as fault:
            raise on_the_wire(fault, model) from fault

    def _check_room(self, model: ServedModel) -> None:
        """A full queue refuses before anything of the request is looked at."""
        try:
            model.engine.check_room()
        except (QueueFullFault, EngineClosedFault) as fault:
            raise on_the_wire(fault, model) from fault

    async def Embed(
        self, request: generation_pb2.EmbedRequest, context: Context
    ) -> generation_pb2.EmbedResponse:
        """The mean of the final states over the text's tokens, computed between two steps of the engine."""
        model = self._ready()
        tokens, adapters = await asyncio.to_thread(parse_embed, request, model)
        try:
            values = await asyncio.wrap_future(model.embedder.submit(tokens, adapters))
        except (QueueFullFault, EngineClosedFault, UnknownAdapterFault) as fault:
            raise on_the_wire(fault, model) from fault
        return generation_pb2.EmbedResponse(
            values=values.tolist(), text_tokens=len(tokens), model=model_ref(model)
        )

    async def CheckOptions(
        self, request: generation_pb2.CheckOptionsRequest, context: Context
    ) -> generation_pb2.CheckOptionsResponse:
        """Refuses what Generate would refuse of these options; takes no slot."""
        await asyncio.to_thread(check_options, request, self._ready())
        return generation_pb2.CheckOptionsResponse()

    async def ListModels(
        self, request: generation_pb2.ListModelsRequest, context: Context
    ) -> generation_pb2.ListModelsResponse:
        """The one model."""
        model = self._ready()
        return generation_pb2.ListModelsResponse(models=[model_info(model)])

    async def ListAdapters(
        self, request: generation_pb2.ListAdaptersRequest, context: Context
    ) -> generation_pb2.ListAdaptersResponse:
        """The adapters of the one model, by name."""
        model = self._ready()
        check_model(request.model, model)
        return generation_pb2.ListAdaptersResponse(
            adapters=[adapter_info(one, model) for one in model.registry.all()]
        )


def _register(service: GenerationService, server: grpc.aio.Server) -> None:
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(service, server)
