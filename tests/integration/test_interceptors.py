"""What happens around a call, seen through real in-process servers: errors, ids, spans, counters, rules."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, get_current_span

from polysight.common.v1 import image_pb2
from polysight.llm.v1 import generation_pb2, generation_pb2_grpc
from polysight.vision.v1 import ocr_pb2, ocr_pb2_grpc
from serving.channel import open_channel
from serving.errors import (
    PolysightError,
    QueueFullError,
    error_info,
    retry_after_s,
    status_from_rpc_error,
)
from serving.grpc_server import Server, Servicer
from serving.request_id import current_request_id
from serving.settings import ServerSettings
from serving.telemetry.metrics import Metrics

OCR = "polysight.vision.v1.OcrService"
GENERATION = "polysight.llm.v1.GenerationService"
RECOGNIZE = f"/{OCR}/RecognizeText"
GENERATE = f"/{GENERATION}/Generate"
ERRORS = {kind.__name__: kind for kind in PolysightError.__subclasses__()}


@dataclass
class Witness:
    """What the handlers saw."""

    request_ids: list[str] = field(default_factory=list)
    trace_ids: list[int] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    def look(self) -> None:
        self.request_ids.append(current_request_id())
        self.trace_ids.append(get_current_span().get_span_context().trace_id)
        self.entered.set()


Context = grpc.aio.ServicerContext[Any, Any]


class CommandedOcr(ocr_pb2_grpc.OcrServiceServicer):
    """Does what the bytes of the image say."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    async def RecognizeText(
        self, request: ocr_pb2.RecognizeTextRequest, context: Context
    ) -> ocr_pb2.RecognizeTextResponse:
        self._witness.look()
        command, _, argument = request.image.data.decode().partition(":")
        match command:
            case "raise":
                raise ERRORS[argument]("as told", metadata={"hint": "none"})
            case "full":
                raise QueueFullError("full", retry_after_s=0.5)
            case "crash":
                raise ValueError("the password is hunter2")
            case "abort":
                await context.abort(grpc.StatusCode.ALREADY_EXISTS, "said by hand")
            case "hang":
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    self._witness.cancelled.set()
                    raise
            case "trailers":
                context.set_trailing_metadata((("mine", "yes"),))
            case "trailers-then-raise":
                context.set_trailing_metadata((("mine", "yes"),))
                raise QueueFullError("full")
        return ocr_pb2.RecognizeTextResponse(image_width=640)

    async def Describe(
        self, request: ocr_pb2.OcrServiceDescribeRequest, context: Context
    ) -> ocr_pb2.OcrServiceDescribeResponse:
        return ocr_pb2.OcrServiceDescribeResponse()


class Storyteller(generation_pb2_grpc.GenerationServiceServicer):
    """Streams, and does on the way what the last turn says. Asks an OCR service first if it has one."""

    def __init__(self, witness: Witness, ocr: ocr_pb2_grpc.OcrServiceAsyncStub | None = None) -> None:
        self._witness = witness
        self._ocr = ocr

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        self._witness.look()
        if self._ocr is not None:
            await self._ocr.RecognizeText(recognise(b"ok"))
        try:
            for index in range(3):
                yield generation_pb2.GenerateResponse(token=generation_pb2.Token(id=index))
            match request.turns[-1].text:
                case "fail":
                    raise QueueFullError("lost my place", retry_after_s=1)
                case "crash":
                    raise ValueError("the password is hunter2")
                case "forever":
                    while True:
                        await asyncio.sleep(0.001)
                        yield generation_pb2.GenerateResponse(token=generation_pb2.Token(id=9))
        finally:
            self._witness.cancelled.set()
        yield generation_pb2.GenerateResponse(done=generation_pb2.Done(text="the end"))

    async def Embed(self, request: Any, context: Context) -> generation_pb2.EmbedResponse:
        return generation_pb2.EmbedResponse()

    async def CheckOptions(self, request: Any, context: Context) -> generation_pb2.CheckOptionsResponse:
        return generation_pb2.CheckOptionsResponse()

    async def ListModels(
        self, request: generation_pb2.ListModelsRequest, context: Context
    ) -> generation_pb2.ListModelsResponse:
        return generation_pb2.ListModelsResponse()

    async def ListAdapters(
        self, request: generation_pb2.ListAdaptersRequest, context: Context
    ) -> generation_pb2.ListAdaptersResponse:
        return generation_pb2.ListAdaptersResponse()


@dataclass
class House:
    """A running server with everything a test looks at."""

    server: Server
    channel: grpc.aio.Channel
    metrics: Metrics
    witness: Witness
    spans: InMemorySpanExporter
    provider: TracerProvider

    @property
    def ocr(self) -> ocr_pb2_grpc.OcrServiceAsyncStub:
        return ocr_pb2_grpc.OcrServiceStub(self.channel)

    @property
    def llm(self) -> generation_pb2_grpc.GenerationServiceAsyncStub:
        return generation_pb2_grpc.GenerationServiceStub(self.channel)

    def counted(self, method: str, code: str) -> float | None:
        return self.metrics.value("test_rpc_requests_total", {"method": method, "code": code})


def recognise(command: bytes) -> ocr_pb2.RecognizeTextRequest:
    return ocr_pb2.RecognizeTextRequest(image=image_pb2.Image(data=command))


def tell(text: str) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(
        turns=[generation_pb2.Turn(role=generation_pb2.ROLE_USER, text=text)]
    )


@contextlib.asynccontextmanager
async def house(
    *, ready: bool = True, max_calls: int = 64, behind: grpc.aio.Channel | None = None
) -> AsyncIterator[House]:
    witness, metrics, spans = Witness(), Metrics("test"), InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    ocr, llm = (
        CommandedOcr(witness),
        Storyteller(witness, None if behind is None else ocr_pb2_grpc.OcrServiceStub(behind)),
    )
    server = Server(
        settings=ServerSettings(port=0, max_concurrent_calls=max_calls, drain_grace_s=1),
        servicers=[
            Servicer(OCR, lambda server: ocr_pb2_grpc.add_OcrServiceServicer_to_server(ocr, server)),
            Servicer(
                GENERATION,
                lambda server: generation_pb2_grpc.add_GenerationServiceServicer_to_server(llm, server),
            ),
        ],
        metrics=metrics,
        provider=provider,
    )
    async with server:
        if ready:
            await server.ready()
        async with open_channel(server.address, max_attempts=1, provider=provider) as channel:
            yield House(server, channel, metrics, witness, spans, provider)


@pytest.fixture
async def home() -> AsyncIterator[House]:
    async with house() as running:
        yield running


@pytest.mark.parametrize("name", sorted(ERRORS))
async def test_every_error_arrives_with_its_code_and_reason(home: House, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await home.ocr.RecognizeText(recognise(f"raise:{name}".encode()))
    assert caught.value.code() is ERRORS[name].code
    assert caught.value.details() == "as told"
    info = error_info(status_from_rpc_error(caught.value))
    assert info is not None
    assert info.reason == ERRORS[name]("").reason_name
    assert info.metadata["hint"] == "none"
    assert info.metadata["request_id"] == home.witness.request_ids[-1]
    await until(lambda: home.counted(RECOGNIZE, ERRORS[name].code.name) == 1)


async def test_a_retry_hint_arrives(home: House) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await home.ocr.RecognizeText(recognise(b"full"))
    assert retry_after_s(status_from_rpc_error(caught.value)) == pytest.approx(0.5)


async def test_an_unknown_exception_is_hidden_from_the_caller_and_whole_in_the_log(home: House) -> None:
    with structlog.testing.capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        await home.ocr.RecognizeText(recognise(b"crash"))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert b"hunter2" not in status_from_rpc_error(caught.value).SerializeToString()
    [failed] = [line for line in logs if line["event"] == "call failed"]
    assert failed["exc_info"]
    assert failed["log_level"] == "error"


async def test_a_handlers_own_abort_passes(home: House) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await home.ocr.RecognizeText(recognise(b"abort"))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ALREADY_EXISTS, "said by hand")
    await until(lambda: home.counted(RECOGNIZE, "ALREADY_EXISTS") == 1)


@pytest.mark.parametrize("kind", ["fail", "crash"])
async def test_an_error_in_mid_stream_comes_after_the_messages_before_it(home: House, kind: str) -> None:
    call = home.llm.Generate(tell(kind))
    ids: list[int] = []

    async def read() -> None:
        async for event in call:
            ids.append(event.token.id)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read()
    assert ids == [0, 1, 2]
    expected = grpc.StatusCode.RESOURCE_EXHAUSTED if kind == "fail" else grpc.StatusCode.INTERNAL
    assert caught.value.code() is expected
    info = error_info(status_from_rpc_error(caught.value))
    assert info is not None
    assert info.reason == ("QUEUE_FULL" if kind == "fail" else "INTERNAL")
    await until(lambda: home.counted(GENERATE, expected.name) == 1)


async def test_a_whole_stream_is_ok(home: House) -> None:
    events = [event async for event in home.llm.Generate(tell("go on"))]
    assert [event.WhichOneof("event") for event in events] == ["token", "token", "token", "done"]
    await until(lambda: home.counted(GENERATE, "OK") == 1)


async def test_a_cancelled_call_is_no_error(home: House) -> None:
    with structlog.testing.capture_logs() as logs:
        call = home.ocr.RecognizeText(recognise(b"hang"))
        await asyncio.wait_for(home.witness.entered.wait(), 5)
        call.cancel()
        await asyncio.wait_for(home.witness.cancelled.wait(), 5)
        await until(lambda: home.counted(RECOGNIZE, "CANCELLED") == 1)
    assert not [line for line in logs if line["log_level"] in {"warning", "error"}]
    assert home.metrics.value("test_rpc_in_flight", {"method": RECOGNIZE}) == 0


async def test_a_stream_that_nobody_reads_any_more_is_closed(home: House) -> None:
    with structlog.testing.capture_logs() as logs:
        call = home.llm.Generate(tell("forever"))
        async for _ in call:
            break
        call.cancel()
        await asyncio.wait_for(home.witness.cancelled.wait(), 5)
        await until(lambda: home.counted(GENERATE, "CANCELLED") == 1)
    assert not [line for line in logs if line["log_level"] in {"warning", "error"}]


async def test_a_deadline_is_counted_as_one_and_reaches_the_handler(home: House) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await home.ocr.RecognizeText(recognise(b"hang"), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(home.witness.cancelled.wait(), 5)
    await until(lambda: home.counted(RECOGNIZE, "DEADLINE_EXCEEDED") == 1)


async def test_nothing_is_left_running_after_many_cancelled_calls(home: House) -> None:
    await home.ocr.RecognizeText(recognise(b"ok"))
    before = len(asyncio.all_tasks())
    for _ in range(20):
        call = home.llm.Generate(tell("forever"))
        async for _event in call:
            break
        call.cancel()
    await until(lambda: home.counted(GENERATE, "CANCELLED") == 20)
    await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_requests_are_held_against_the_rules_of_the_contract(home: House) -> None:
    request = recognise(b"ok")
    request.confidence_threshold = 1.5
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await home.ocr.RecognizeText(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    info = error_info(status_from_rpc_error(caught.value))
    assert info is not None
    assert (info.reason, info.metadata["field"]) == ("INVALID_FIELD", "confidence_threshold")
    assert not home.witness.request_ids  # the handler was never asked


async def test_rules_hold_for_streaming_calls_too(home: House) -> None:
    request = tell("hello")
    request.adapters.adapters.add(name="object", scale=99)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [event async for event in home.llm.Generate(request)]
    info = error_info(status_from_rpc_error(caught.value))
    assert info is not None
    assert info.metadata["field"] == "adapters.adapters[0].scale"


async def test_the_callers_request_id_is_used_and_told_back(home: House) -> None:
    call = home.ocr.RecognizeText(recognise(b"ok"), metadata=(("x-request-id", "order-66"),))
    await call
    assert home.witness.request_ids == ["order-66"]
    assert (await call.trailing_metadata())["x-request-id"] == "order-66"


@pytest.mark.parametrize("bad", ["", "with space", "a" * 129, "semi;colon", '"quote"'])
async def test_a_bad_request_id_is_replaced(home: House, bad: str) -> None:
    await home.ocr.RecognizeText(recognise(b"ok"), metadata=(("x-request-id", bad),))
    assert home.witness.request_ids[0] != bad
    assert len(home.witness.request_ids[0]) == 32


@pytest.mark.parametrize("command", [b"trailers", b"trailers-then-raise"])
async def test_a_handlers_own_trailers_survive(home: House, command: bytes) -> None:
    call = home.ocr.RecognizeText(recognise(command))
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call
    trailers = await call.trailing_metadata()
    assert trailers["mine"] == "yes"
    assert trailers["x-request-id"] == home.witness.request_ids[0]
    assert len(trailers.get_all("x-request-id")) == 1


async def test_each_call_leaves_one_line_in_the_access_log(home: House) -> None:
    with structlog.testing.capture_logs() as logs:
        await home.ocr.RecognizeText(recognise(b"ok"))
        await until(lambda: any(line["event"] == "rpc" for line in logs))
    [line] = [line for line in logs if line["event"] == "rpc"]
    assert (line["method"], line["code"]) == (RECOGNIZE, "OK")
    assert 0 <= line["ms"] < 5000


async def test_calls_are_counted_and_timed(home: House) -> None:
    for _ in range(3):
        await home.ocr.RecognizeText(recognise(b"ok"))
    await until(lambda: home.counted(RECOGNIZE, "OK") == 3)
    assert home.metrics.value("test_rpc_duration_seconds_count", {"method": RECOGNIZE}) == 3
    assert home.metrics.value("test_rpc_in_flight", {"method": RECOGNIZE}) == 0


async def test_calls_before_the_warm_up_are_refused_with_a_hint() -> None:
    async with house(ready=False) as cold:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cold.ocr.RecognizeText(recognise(b"ok"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        status = status_from_rpc_error(caught.value)
        info = error_info(status)
        assert info is not None
        assert (info.reason, info.metadata["service"]) == ("NOT_READY", OCR)
        assert retry_after_s(status) == 1.0
        await cold.server.ready()
        assert (await cold.ocr.RecognizeText(recognise(b"ok"))).image_width == 640


async def test_calls_above_the_limit_are_refused_at_once() -> None:
    async with house(max_calls=2) as small:
        hanging = [small.ocr.RecognizeText(recognise(b"hang")) for _ in range(2)]
        await until(lambda: len(small.witness.request_ids) == 2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await small.ocr.RecognizeText(recognise(b"ok"))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_after_s(status_from_rpc_error(caught.value)) == pytest.approx(0.1)
        for call in hanging:
            call.cancel()
        await until(lambda: small.metrics.value("test_rpc_in_flight", {"method": RECOGNIZE}) == 0)
        assert (await small.ocr.RecognizeText(recognise(b"ok"))).image_width == 640


async def test_one_trace_and_one_id_cross_all_hops() -> None:
    async with (
        house() as back,
        open_channel(back.server.address, provider=back.provider) as between,
        house(behind=between) as front,
    ):
        call = front.llm.Generate(tell("go"), metadata=(("x-request-id", "journey"),))
        _ = [event async for event in call]
        await until(lambda: len(front.spans.get_finished_spans()) == 2)
        await until(lambda: len(back.spans.get_finished_spans()) == 2)
    spans = [*front.spans.get_finished_spans(), *back.spans.get_finished_spans()]
    by_kind = {(span.kind, span.name): span for span in spans}
    outer = by_kind[SpanKind.CLIENT, GENERATE[1:]]
    served = by_kind[SpanKind.SERVER, GENERATE[1:]]
    inner = by_kind[SpanKind.CLIENT, RECOGNIZE[1:]]
    innermost = by_kind[SpanKind.SERVER, RECOGNIZE[1:]]
    assert len({trace_id(span) for span in spans}) == 1
    assert [parent_id(span) for span in (served, inner, innermost)] == [
        span_id(span) for span in (outer, served, inner)
    ]
    assert back.witness.request_ids == front.witness.request_ids == ["journey"]
    assert back.witness.trace_ids == front.witness.trace_ids == [trace_id(outer)]
    assert innermost.attributes is not None
    assert dict(innermost.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": OCR,
        "rpc.method": "RecognizeText",
        "rpc.grpc.status_code": 0,
    }


@pytest.mark.parametrize(
    ("command", "server_failed"), [(b"raise:InternalError", True), (b"raise:ImageEmptyError", False)]
)
async def test_spans_tell_faults_of_the_server_from_mistakes_of_the_caller(
    home: House, command: bytes, server_failed: bool
) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await home.ocr.RecognizeText(recognise(command))
    await until(lambda: len(home.spans.get_finished_spans()) == 2)
    spans = {span.kind: span for span in home.spans.get_finished_spans()}
    assert (not spans[SpanKind.SERVER].status.is_ok) is server_failed
    assert not spans[SpanKind.CLIENT].status.is_ok
    for span in spans.values():
        assert span.attributes is not None
        assert span.attributes["rpc.grpc.status_code"] == (13 if server_failed else 3)


def context_of(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def trace_id(span: ReadableSpan) -> int:
    return context_of(span).trace_id


def span_id(span: ReadableSpan) -> int:
    return context_of(span).span_id


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent and span.parent.span_id


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for what happens just after a reply has left."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is a counter, not an event of ours
            await asyncio.sleep(0.005)
