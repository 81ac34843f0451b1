"""A span around each call, child of the caller's span if the metadata names one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

import grpc
from opentelemetry import propagate
from opentelemetry.context import attach
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    get_tracer_provider,
    set_span_in_context,
)

from serving.interceptors.around import Behaviour, Context
from serving.interceptors.observe import code_name

# The codes that a server's span marks as failed: the others are the caller's doing, or nobody's.
_FAULTS: Final = {
    *(grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED),
    *(grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS),
}


class TraceInterceptor:
    """Inside the request id, outside of everything else."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = (provider or get_tracer_provider()).get_tracer("polysight")

    async def around(self, method: str, behaviour: Behaviour, request: Any, context: Context) -> Any:
        """Run the call in a span that is current for its handler."""
        parent = propagate.extract(context, getter=_RECEIVED)
        name = method.removeprefix("/")
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes=rpc_attributes(method))
        # Never detached: grpc.aio runs each call in a context of its own, which ends with the call.
        attach(set_span_in_context(span, parent))
        if not span.is_recording():
            return await behaviour(request, context)
        try:
            return await self._recorded(span, behaviour(request, context), context)
        finally:
            span.end()

    async def _recorded(self, span: Span, call: Awaitable[Any], context: Context) -> Any:
        """The reply of `call`; how it ends is written on `span`."""
        try:
            reply = await call
        except asyncio.CancelledError:
            span.set_attribute("rpc.grpc.status_code", grpc.StatusCode.CANCELLED.value[0])
            raise
        except grpc.aio.AbortError:
            code = grpc.StatusCode[code_name(context)]
            span.set_attribute("rpc.grpc.status_code", code.value[0])
            if code in _FAULTS:
                span.set_status(Status(StatusCode.ERROR, context.details() or code.name))
            raise
        span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code_name(context)].value[0])
        return reply


def rpc_attributes(method: str) -> dict[str, str]:
    """OpenTelemetry's `rpc.*` attributes of `/package.Service/Method`."""
    service, _, name = method.removeprefix("/").rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}


class _MetadataGetter(Getter[Context]):
    def get(self, carrier: Context, key: str) -> list[str] | None:
        values = [
            value
            for name, value in carrier.invocation_metadata() or ()
            if name == key.lower() and isinstance(value, str)
        ]
        return values or None

    def keys(self, carrier: Context) -> list[str]:
        return [name for name, _ in carrier.invocation_metadata() or ()]


_RECEIVED: Final = _MetadataGetter()
