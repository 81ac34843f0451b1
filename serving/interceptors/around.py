"""One way to stand around a call, whatever its shape.

grpc.aio has four shapes of handler, and two styles for those that stream replies: async generators, and
coroutines that call `context.write`. Here every shape becomes a coroutine `(request, context) -> reply |
None`, so that an interceptor is written once. A generator is closed in the task it ran in, also when the
caller leaves between two messages; left to the garbage collector, its clean-up would run late and in another
context.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final, Protocol, cast

import grpc

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]

# Health, reflection and channelz: plumbing, which is neither gated nor counted.
_PLUMBING: Final = "/grpc."


def is_plumbing(method: str) -> bool:
    """Whether `/package.Service/Method` belongs to gRPC's own services."""
    return method.startswith(_PLUMBING)


class Around(Protocol):
    """What happens around a call of the mesh's own services."""

    async def around(self, method: str, behaviour: Behaviour, request: Any, context: Context) -> Any:
        """Run `behaviour(request, context)` and return what it returns.

        `request` is an async iterator where requests stream. Replies that stream go through `context.write`,
        and the result is None.
        """


class Chain(grpc.aio.ServerInterceptor):
    """Several of them as one interceptor, outermost first; gRPC's own services pass by.

    One, because grpc.aio walks its list anew for each call: here a method's handler is wrapped the first time that it
    is called, and found by its name from then on.
    """

    def __init__(self, links: Sequence[Around]) -> None:
        self._links = tuple(links)
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The wrapped handler; an unknown method stays unknown, and is not remembered."""
        method = handler_call_details.method
        if (wrapped := self._wrapped.get(method)) is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or is_plumbing(method):
            return handler
        wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        make, behaviour = _shape(handler)
        for link in reversed(self._links):
            behaviour = partial(link.around, method, behaviour)
        return make(
            behaviour,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _shape(handler: Any) -> tuple[Callable[..., grpc.RpcMethodHandler[Any, Any]], Behaviour]:
    """How to make a handler of this shape again, and its behaviour as a coroutine."""
    if not handler.response_streaming:
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler, handler.stream_unary
        return grpc.unary_unary_rpc_method_handler, handler.unary_unary
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler, _writing(handler.stream_stream)
    return grpc.unary_stream_rpc_method_handler, _writing(handler.unary_stream)


def _writing(behaviour: Any) -> Behaviour:
    """`behaviour` as a coroutine that writes its replies."""
    if inspect.iscoroutinefunction(behaviour):
        return cast("Behaviour", behaviour)
    if not inspect.isasyncgenfunction(behaviour):
        raise TypeError(f"{behaviour!r} must be an async generator or a coroutine that writes to the context")
    return partial(_write_all, behaviour)


async def _write_all(generate: Any, request: Any, context: Context) -> None:
    async with aclosing(generate(request, context)) as replies:
        async for reply in replies:
            await context.write(reply)
