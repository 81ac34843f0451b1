"""From the end of a call to the report about it."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import code_pb2

from gateway.experts import ExpertReply
from gateway.fanout import Ended, Ending
from gateway.reports import report, skipped
from polysight.gateway.v1 import polysight_pb2
from polysight.vision.v1 import ocr_pb2
from serving.errors import DeadlineUnreachableError, QueueFullError, error_info

OCR = polysight_pb2.EXPERT_OCR


def rpc_error(code: grpc.StatusCode, details: str = "10.0.0.7:1 says no") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


def failed(error: BaseException | None, ending: Ending = Ending.FAILED) -> polysight_pb2.ExpertReport:
    return report(Ended(OCR, ending, None, error, 0.25, 0.5))


def test_a_result() -> None:
    result = ocr_pb2.RecognizeTextResponse(lines=[ocr_pb2.TextLine(text="STOP")])
    written = report(Ended(OCR, Ending.OK, ExpertReply(result, cached=True), None, 0.25, 0.5))
    assert (written.expert, written.outcome) == (OCR, polysight_pb2.OUTCOME_OK)
    assert written.HasField("status")
    assert written.status.code == code_pb2.OK
    assert written.ocr == result
    assert written.cached
    assert written.elapsed.ToMilliseconds() == 250


@pytest.mark.parametrize(
    ("error", "ending", "outcome", "code", "reason"),
    [
        (None, Ending.TIMED_OUT, "TIMED_OUT", code_pb2.DEADLINE_EXCEEDED, "EXPERT_TIMED_OUT"),
        (TimeoutError(), Ending.TIMED_OUT, "TIMED_OUT", code_pb2.DEADLINE_EXCEEDED, "EXPERT_TIMED_OUT"),
        (
            rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED),
            Ending.FAILED,
            "TIMED_OUT",
            code_pb2.DEADLINE_EXCEEDED,
            "EXPERT_TIMED_OUT",
        ),
        (
            DeadlineUnreachableError("too late"),
            Ending.FAILED,
            "TIMED_OUT",
            code_pb2.DEADLINE_EXCEEDED,
            "DEADLINE_UNREACHABLE",
        ),
        (
            rpc_error(grpc.StatusCode.UNAVAILABLE),
            Ending.FAILED,
            "FAILED",
            code_pb2.UNAVAILABLE,
            "EXPERT_UNAVAILABLE",
        ),
        (QueueFullError("full"), Ending.FAILED, "FAILED", code_pb2.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
        (ValueError("secret"), Ending.FAILED, "FAILED", code_pb2.INTERNAL, "INTERNAL"),
    ],
)
def test_every_way_to_be_missing(
    error: BaseException | None, ending: Ending, outcome: str, code: int, reason: str
) -> None:
    written = failed(error, ending)
    info = error_info(written.status)
    assert info is not None
    assert (written.outcome, written.status.code) == (
        polysight_pb2.Outcome.Value(f"OUTCOME_{outcome}"),
        code,
    )
    assert info.reason == reason
    assert written.WhichOneof("result") is None
    assert "10.0.0.7" not in written.status.message
    assert "secret" not in written.status.message
    if reason == "EXPERT_TIMED_OUT":
        assert dict(info.metadata) == {"expert": "ocr", "budget_ms": "500"}


def test_another_side_s_own_words_are_kept() -> None:
    written = failed(rpc_error(grpc.StatusCode.UNIMPLEMENTED, "no such method"))
    assert (written.outcome, written.status.code, written.status.message) == (
        polysight_pb2.OUTCOME_FAILED,
        code_pb2.UNIMPLEMENTED,
        "no such method",
    )


def test_nobody_asked() -> None:
    written = skipped(OCR)
    assert (written.outcome, written.status.code) == (polysight_pb2.OUTCOME_SKIPPED, code_pb2.OK)
    assert written.elapsed.ToNanoseconds() == 0
