"""What a client adds to every call: the request id and trace context of the request being served, and a span.

A call made outside of any request (the command line, a probe) begins a request of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final

import grpc
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider, get_tracer_provider

from serving.interceptors.trace import rpc_attributes
from serving.request_id import REQUEST_ID_HEADER, current_request_id, new_request_id

Details = grpc.aio.ClientCallDetails
Metadata = grpc.aio.Metadata


def client_interceptors(provider: TracerProvider | None = None) -> list[grpc.aio.ClientInterceptor]:
    """The interceptors of a channel; `provider` makes the spans, the process's own by default."""
    return [UnaryUnaryTelling(provider), UnaryStreamTelling(provider)]


class Telling:
    """Starts the client's span and writes the metadata; for the interceptors, and for a caller without them.

    `provider` makes the spans, the process's own by default. It also keeps the tasks alive that end spans.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = (provider or get_tracer_provider()).get_tracer("polysight")
        self._ending: set[asyncio.Task[None]] = set()

    def begin(self, method: str, metadata: Iterable[tuple[str, str | bytes]] = ()) -> tuple[Span, Metadata]:
        """A span for `/package.Service/Method`, and `metadata` with request id and trace context added."""
        span = self._tracer.start_span(
            method.removeprefix("/"), kind=SpanKind.CLIENT, attributes=rpc_attributes(method)
        )
        told = Metadata(*metadata)
        if told.get(REQUEST_ID_HEADER) is None:
            told.add(REQUEST_ID_HEADER, current_request_id() or new_request_id())
        carrier: dict[str, str] = {}
        propagate.inject(carrier, context=trace.set_span_in_context(span))
        for key, value in carrier.items():
            told[key] = value
        return span, told

    def end_with(self, span: Span, call: grpc.aio.Call) -> None:
        """End `span` once `call` is done, if anybody records it."""
        if span.is_recording():
            call.add_done_callback(lambda _: self._end_later(span, call))

    def intercepted(self, details: Details) -> tuple[Span, Details]:
        """The same for what an interceptor gets."""
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        span, metadata = self.begin(method, details.metadata or ())
        return span, Details(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )

    def _end_later(self, span: Span, call: grpc.aio.Call) -> None:
        # The code of a finished call is there at once, but only by awaiting.
        task = asyncio.ensure_future(_end(call, span))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class UnaryUnaryTelling(Telling, grpc.aio.UnaryUnaryClientInterceptor):
    """For calls with one reply."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[Details, Any], Awaitable[grpc.aio.UnaryUnaryCall[Any, Any]]],
        client_call_details: Details,
        request: Any,
    ) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        """Add metadata and a span; the call itself is handed on untouched."""
        span, details = self.intercepted(client_call_details)
        call = await continuation(details, request)
        self.end_with(span, call)
        return call


class UnaryStreamTelling(Telling, grpc.aio.UnaryStreamClientInterceptor):
    """For calls whose replies stream."""

    async def intercept_unary_stream(
        self,
        continuation: Callable[[Details, Any], Awaitable[grpc.aio.UnaryStreamCall[Any, Any]]],
        client_call_details: Details,
        request: Any,
    ) -> AsyncIterator[Any] | grpc.aio.UnaryStreamCall[Any, Any]:
        """Add metadata and a span; the call itself is handed on untouched."""
        span, details = self.intercepted(client_call_details)
        call = await continuation(details, request)
        self.end_with(span, call)
        return call


_OK: Final = grpc.StatusCode.OK


async def _end(call: grpc.aio.Call, span: Span) -> None:
    code = await call.code()
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code is not _OK:
        span.set_status(Status(StatusCode.ERROR, await call.details() or code.name))
    span.end()
