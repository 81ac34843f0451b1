"""What a client adds to every call: the request id and trace context of the request being served, and a span.

A call made outside of any request (the command line, a probe) begins a request of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider, get_tracer_provider

from serving.interceptors.trace import rpc_attributes
from serving.request_id import REQUEST_ID_HEADER, current_request_id, new_request_id

Details = grpc.aio.ClientCallDetails


def client_interceptors(provider: TracerProvider | None = None) -> list[grpc.aio.ClientInterceptor]:
    """The interceptors of a channel; `provider` makes the spans, the process's own by default."""
    return [UnaryUnaryTelling(provider), UnaryStreamTelling(provider)]


class _Telling:
    """Starts the client's span and writes the metadata. Also keeps the tasks that end spans alive."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = (provider or get_tracer_provider()).get_tracer("polysight")
        self._ending: set[asyncio.Task[None]] = set()

    def _begin(self, details: Details) -> tuple[Span, Details]:
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        span = self._tracer.start_span(
            method.removeprefix("/"), kind=SpanKind.CLIENT, attributes=rpc_attributes(method)
        )
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        if metadata.get(REQUEST_ID_HEADER) is None:
            metadata.add(REQUEST_ID_HEADER, current_request_id() or new_request_id())
        carrier: dict[str, str] = {}
        propagate.inject(carrier, context=trace.set_span_in_context(span))
        for key, value in carrier.items():
            metadata[key] = value
        return span, Details(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )

    def _end_with(self, call: grpc.aio.Call, span: Span) -> None:
        """End `span` once `call` is done; the code of a finished call is there at once, but only by awaiting."""
        task = asyncio.ensure_future(_end(call, span))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class UnaryUnaryTelling(_Telling, grpc.aio.UnaryUnaryClientInterceptor):
    """For calls with one reply."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[Details, Any], Awaitable[grpc.aio.UnaryUnaryCall[Any, Any]]],
        client_call_details: Details,
        request: Any,
    ) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        """Add metadata and a span; the call itself is handed on untouched."""
        span, details = self._begin(client_call_details)
        call = await continuation(details, request)
        call.add_done_callback(lambda _: self._end_with(call, span))
        return call


class UnaryStreamTelling(_Telling, grpc.aio.UnaryStreamClientInterceptor):
    """For calls whose replies stream."""

    async def intercept_unary_stream(
        self,
        continuation: Callable[[Details, Any], Awaitable[grpc.aio.UnaryStreamCall[Any, Any]]],
        client_call_details: Details,
        request: Any,
    ) -> AsyncIterator[Any] | grpc.aio.UnaryStreamCall[Any, Any]:
        """Add metadata and a span; the call itself is handed on untouched."""
        span, details = self._begin(client_call_details)
        call = await continuation(details, request)
        call.add_done_callback(lambda _: self._end_with(call, span))
        return call


_OK: Final = grpc.StatusCode.OK


async def _end(call: grpc.aio.Call, span: Span) -> None:
    code = await call.code()
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code is not _OK:
        span.set_status(Status(StatusCode.ERROR, await call.details() or code.name))
    span.end()
