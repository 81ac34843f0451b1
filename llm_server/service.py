"""`llm.v1.GenerationService`: translates between the contract and the engine, and thinks nothing of its own."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from llm_server.event_stream import EventStream
from llm_server.faults import DeadlineFault, EngineClosedFault, GenerationFault, QueueFullFault
from llm_server.generation_metrics import GenerationMetrics
from llm_server.request import check_model, parse_request
from llm_server.sequence import (
    AdapterScales,
    FailedEvent,
    FinishedEvent,
    FinishReason,
    GenerationRequest,
    Sequence,
    TokenEvent,
)
from llm_server.served_model import ServedModel
from polysight.common.v1 import model_pb2
from polysight.llm.v1 import generation_pb2, generation_pb2_grpc
from serving.errors import (
    DeadlineUnreachableError,
    InternalError,
    NotReadyError,
    PolysightError,
    QueueFullError,
    ShuttingDownError,
)
from serving.grpc_server import Servicer
from serving.image import ImageLimits
from serving.telemetry.metrics import Metrics
from serving.timings import duration

FULL_NAME = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]

_REASONS = {
    FinishReason.END_OF_TURN: generation_pb2.FINISH_REASON_END_OF_TURN,
    FinishReason.STOP_STRING: generation_pb2.FINISH_REASON_STOP_STRING,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
}
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
        self._metrics = GenerationMetrics(metrics, self._load_now)

    def servicer(self) -> Servicer:
        """This service, as a server takes it."""
        return Servicer(FULL_NAME, lambda server: _register(self, server))

    async def warm_up(self) -> None:
        """Load the model and run real generations: one alone, then a full batch, with adapters and without."""
        model = await asyncio.to_thread(self._load)
        self._model = model
        model.engine.start()
        await self._warm(model, model.default_adapters)
        sets: list[AdapterScales] = [(), model.default_adapters]
        full = itertools.islice(itertools.cycle(sets), model.engine.slots)
        await asyncio.gather(*(self._warm(model, adapters) for adapters in full))

    async def _warm(self, model: ServedModel, adapters: AdapterScales) -> None:
        request = generation_pb2.GenerateRequest()
        request.CopyFrom(_WARM_UP)
        request.adapters.SetInParent()
        request.adapters.adapters.extend(_adapter_scales(adapters))
        stream = EventStream()
        self._submit(model, parse_request(request, model, self._limits, deadline=None), stream)
        async for event in stream:
            if isinstance(event, FailedEvent):
                raise event.error

    async def close(self) -> None:
        """Stop the engine; what it still has is failed. Harmless if nothing was loaded."""
        if self._model is not None:
            await asyncio.to_thread(self._model.engine.close)

    def _load_now(self) -> tuple[int, int]:
        return (0, 0) if self._model is None else self._model.engine.load

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
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        wanted = await asyncio.to_thread(parse_request, request, model, self._limits, deadline=deadline)
        stream = EventStream()
        sequence = self._submit(model, wanted, stream)
        try:
            async for event in stream:
                match event:
                    case TokenEvent():
                        token = generation_pb2.Token(text=event.text, id=event.token)
                        yield generation_pb2.GenerateResponse(token=token)
                    case FinishedEvent():
                        self._metrics.on_finished(event)
                        yield generation_pb2.GenerateResponse(done=_done(event, wanted, model))
                    case FailedEvent():
                        raise _on_the_wire(event.error) from event.error
        finally:
            model.engine.cancel(sequence)

    def _submit(self, model: ServedModel, wanted: GenerationRequest, stream: EventStream) -> Sequence:
        try:
            return model.engine.submit(wanted, stream)
        except (QueueFullFault, EngineClosedFault) as fault:
            raise _on_the_wire(fault) from fault

    async def ListModels(
        self, request: generation_pb2.ListModelsRequest, context: Context
    ) -> generation_pb2.ListModelsResponse:
        """The one model."""
        model = self._ready()
        return generation_pb2.ListModelsResponse(
            models=[
                generation_pb2.ModelInfo(
                    model=_model_ref(model),
                    base=model.base,
                    precision=model.precision,
                    context_length=model.context_length,
                    verbalization_form=generation_pb2.VERBALIZATION_FORM_POLYSIGHT,
                    uses_image=False,
                    uses_crayon=False,
                    default_adapters=_adapter_scales(model.default_adapters),
                    weights=[
                        model_pb2.WeightsInfo(artifact=one.artifact, sha256=one.sha256, licence=one.licence)
                        for one in model.weights
                    ],
                )
            ]
        )

    async def ListAdapters(
        self, request: generation_pb2.ListAdaptersRequest, context: Context
    ) -> generation_pb2.ListAdaptersResponse:
        """The adapters of the one model, by name."""
        model = self._ready()
        check_model(request.model, model)
        return generation_pb2.ListAdaptersResponse(
            adapters=[
                generation_pb2.AdapterInfo(
                    name=adapter.name,
                    model=model.name,
                    rank=adapter.rank,
                    alpha=adapter.alpha,
                    sha256=adapter.sha256,
                    description=adapter.description,
                )
                for adapter in model.adapters
            ]
        )


def _register(service: GenerationService, server: grpc.aio.Server) -> None:
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(service, server)


def _done(end: FinishedEvent, request: GenerationRequest, model: ServedModel) -> generation_pb2.Done:
    return generation_pb2.Done(
        finish_reason=_REASONS[end.reason],
        text=end.text.strip(),
        usage=generation_pb2.Usage(text_tokens=end.prompt_tokens, generated_tokens=end.generated_tokens),
        timings=generation_pb2.GenerationTimings(
            queue=duration(end.queue_s),
            prefill=duration(end.prefill_s),
            decode=duration(end.decode_s),
            time_to_first_token=duration(end.first_token_s),
        ),
        model=_model_ref(model),
        adapters=_adapter_scales(request.adapters),
        seed=request.seed,
    )


def _model_ref(model: ServedModel) -> model_pb2.ModelRef:
    return model_pb2.ModelRef(name=model.name, version=model.version, engine=model.device)


def _adapter_scales(adapters: AdapterScales) -> list[generation_pb2.AdapterScale]:
    return [generation_pb2.AdapterScale(name=name, scale=scale) for name, scale in adapters]


def _on_the_wire(fault: Exception) -> PolysightError | Exception:
    """The engine's fault in the words of the contract; what is not one stays as it is."""
    match fault:
        case QueueFullFault():
            return QueueFullError(
                f"{fault.queued} requests wait already",
                metadata={"queued": str(fault.queued)},
                retry_after_s=fault.retry_after_s,
            )
        case EngineClosedFault():
            return ShuttingDownError("the server is shutting down")
        case DeadlineFault():
            return DeadlineUnreachableError(str(fault))
        case GenerationFault():
            return InternalError("the model failed on this request")
    return fault
