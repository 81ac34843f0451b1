"""The language model server as the gateway sees it.

What a model wants to be given (which words, whether picture and crayon maps) is asked of the server and kept for
a while, so that no answer waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Final, Protocol, Self

import grpc
import grpc.aio
import structlog
from google.rpc import code_pb2

from gateway.downstream import failure, timed_out
from polysight.llm.v1 import generation_pb2, generation_pb2_grpc
from serving.errors import (
    ModelNotFoundError,
    NotReadyError,
    PolysightError,
    error_info,
    status_from_rpc_error,
)

LLM_SERVER = "llm_server"

# Codes that speak of the request: another attempt would not end otherwise.
_REFUSALS: Final = frozenset({code_pb2.INVALID_ARGUMENT, code_pb2.NOT_FOUND})

log = structlog.get_logger(__name__)


class LanguageModels(Protocol):
    """Models that answer."""

    def known(self, name: str) -> generation_pb2.ModelInfo | None:
        """What is known of model `name` ("" is the default) without waiting for anyone.

        Raises ModelNotFoundError if it is known that there is no such model.
        """
        ...

    async def find(self, name: str, timeout_s: float) -> generation_pb2.ModelInfo:
        """What model `name` wants. Raises ModelNotFoundError, or why nobody could say."""
        ...

    async def check(self, options: generation_pb2.CheckOptionsRequest, timeout_s: float) -> None:
        """Raises why an answer with these options would be refused; nothing if nobody can say within `timeout_s`."""
        ...

    def generate(
        self, request: generation_pb2.GenerateRequest, timeout_s: float | None
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Stream an answer; closing the generator cancels it. Raises as `find` does."""
        ...


class Lookup:
    """The question what a model wants, asked beside other work: `async with Lookup(models, name) as lookup`.

    Entering raises ModelNotFoundError if it is known already that there is no such model.
    """

    def __init__(self, models: LanguageModels, name: str, timeout_s: float) -> None:
        self._models, self._name, self._timeout_s = models, name, timeout_s
        self.known: generation_pb2.ModelInfo | None = None
        self._asking: asyncio.Task[generation_pb2.ModelInfo] | None = None

    async def __aenter__(self) -> Self:
        """Look at what is known; ask if nothing is."""
        self.known = self._models.known(self._name)
        if self.known is None:
            self._asking = asyncio.create_task(self._models.find(self._name, self._timeout_s))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nobody needs the answer any more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait((self._asking,))
            if not self._asking.cancelled():
                self._asking.exception()

    async def result(self, wait_s: float | None = None) -> generation_pb2.ModelInfo:
        """Wait for the answer, `wait_s` seconds at the most; raises as `LanguageModels.find`."""
        if self._asking is None:
            assert self.known is not None  # or it would have been asked for
            return self.known
        await asyncio.wait((self._asking,), timeout=wait_s)
        if not self._asking.done():
            raise timed_out(LLM_SERVER, wait_s or 0.0)
        return self._asking.result()

    async def within(self, wait_s: float) -> generation_pb2.ModelInfo | None:
        """The answer, or None if there is none within `wait_s` seconds."""
        if self._asking is None:
            return self.known
        await asyncio.wait((self._asking,), timeout=wait_s)
        answered = self._asking.done() and not self._asking.cancelled() and not self._asking.exception()
        return self._asking.result() if answered else None


class RemoteLanguageModels:
    """A language model server in another process.

    Args:
        channel: to the server.
        ttl_s: how long a list of models is believed.
        lookup_s: how long to wait for the list.
        retry_s: how long after a failed attempt nobody asks again.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        ttl_s: float = 30.0,
        lookup_s: float = 2.0,
        retry_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stub = generation_pb2_grpc.GenerationServiceStub(channel)
        self._ttl_s, self._lookup_s, self._retry_s, self._clock = ttl_s, lookup_s, retry_s, clock
        self._models: list[generation_pb2.ModelInfo] = []
        self._fresh_until = self._quiet_until = -float("inf")
        self._failure: BaseException | None = None
        self._listing: asyncio.Task[None] | None = None

    def known(self, name: str) -> generation_pb2.ModelInfo | None:
        """As in LanguageModels. A list that has grown old still counts, and is asked for anew meanwhile."""
        if not self._models:
            return None
        if self._clock() < self._fresh_until:
            return self._pick(name)
        self._begin_listing()
        return self._listed(name)

    async def find(self, name: str, timeout_s: float) -> generation_pb2.ModelInfo:
        """As in LanguageModels. While the server cannot be reached, the last list it gave still counts."""
        if self._clock() >= self._fresh_until and (listing := self._begin_listing()):
            # Shared by all who want to know: who leaves, or has less time, does not end it for the others.
            await asyncio.wait((listing,), timeout=timeout_s)
        if self._models:
            return self._pick(name)
        raise failure(self._failure or TimeoutError(), LLM_SERVER, timeout_s)

    async def check(self, options: generation_pb2.CheckOptionsRequest, timeout_s: float) -> None:
        """As in LanguageModels. A server that does not know the question yet has nothing against it."""
        try:
            await self._stub.CheckOptions(options, timeout=timeout_s)
        except grpc.RpcError as error:
            status = status_from_rpc_error(error)
            if status.code in _REFUSALS and error_info(status) is not None:
                raise
            log.debug("options not checked", code=status.code, message=status.message)

    def begin(self) -> None:
        """Ask for the list of models without waiting for it, so that it is there when the first request comes."""
        self._begin_listing()

    async def generate(
        self, request: generation_pb2.GenerateRequest, timeout_s: float | None
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """As in LanguageModels. Cancelling the task that iterates reaches the server, and so does closing."""
        call = self._stub.Generate(request, timeout=timeout_s)
        try:
            async for response in call:
                yield response
        except grpc.RpcError as error:
            raise failure(error, LLM_SERVER, timeout_s or 0.0) from None
        finally:
            call.cancel()

    def _listed(self, name: str) -> generation_pb2.ModelInfo | None:
        return next((info for info in self._models if not name or info.model.name == name), None)

    def _pick(self, name: str) -> generation_pb2.ModelInfo:
        if (info := self._listed(name)) is not None:
            return info
        there_are = ", ".join(info.model.name for info in self._models)
        raise ModelNotFoundError(
            f"there is no model {name!r}; there are: {there_are}", metadata={"model": name}
        )

    def _begin_listing(self) -> asyncio.Task[None] | None:
        """The question that is under way, or a new one; None shortly after one has failed."""
        if self._listing is None and self._clock() >= self._quiet_until:
            self._listing = asyncio.create_task(self._list())
        return self._listing

    async def _list(self) -> None:
        try:
            reply = await self._stub.ListModels(generation_pb2.ListModelsRequest(), timeout=self._lookup_s)
            if not reply.models:
                raise NotReadyError("the language model server offers no model", retry_after_s=self._retry_s)
        except (grpc.RpcError, PolysightError) as error:
            self._failure = failure(error, LLM_SERVER, self._lookup_s)
            self._quiet_until = self._clock() + self._retry_s
        else:
            self._models = list(reply.models)
            self._fresh_until = self._clock() + self._ttl_s
        finally:
            self._listing = None
