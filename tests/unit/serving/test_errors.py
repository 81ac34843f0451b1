"""Every reason of the contract has one class, one code and one way onto the wire."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from polysight.common.v1 import error_reason_pb2
from polysight.common.v1.error_reason_pb2 import ErrorReason
from serving import errors
from serving.errors import PolysightError, error_info, retry_after_s, status_from_rpc_error, to_status
from serving.request_id import set_request_id

# As the comments of error_reason.proto say.
CODES = {
    "IMAGE_EMPTY": grpc.StatusCode.INVALID_ARGUMENT,
    "IMAGE_UNSUPPORTED_FORMAT": grpc.StatusCode.INVALID_ARGUMENT,
    "IMAGE_CORRUPT": grpc.StatusCode.INVALID_ARGUMENT,
    "IMAGE_TOO_LARGE": grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_FIELD": grpc.StatusCode.INVALID_ARGUMENT,
    "CRAYON_MALFORMED": grpc.StatusCode.INVALID_ARGUMENT,
    "PROMPT_TOO_LONG": grpc.StatusCode.INVALID_ARGUMENT,
    "UNSUPPORTED_OPTION": grpc.StatusCode.INVALID_ARGUMENT,
    "MODEL_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "ADAPTER_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "ADAPTER_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "QUEUE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "DEADLINE_UNREACHABLE": grpc.StatusCode.DEADLINE_EXCEEDED,
    "NOT_READY": grpc.StatusCode.UNAVAILABLE,
    "SHUTTING_DOWN": grpc.StatusCode.UNAVAILABLE,
    "EXPERT_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "EXPERT_TIMED_OUT": grpc.StatusCode.DEADLINE_EXCEEDED,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}
CLASSES = PolysightError.__subclasses__()


class RpcFailure(grpc.RpcError):
    """A failed call as a client sees it."""

    def __init__(
        self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, str | bytes], ...] = ()
    ) -> None:
        super().__init__(details)
        self._code, self._details, self._trailers = code, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailers


def test_each_reason_has_exactly_one_class_with_the_code_that_the_contract_promises() -> None:
    assert {kind("").reason_name: kind.code for kind in CLASSES} == CODES
    assert sorted(kind.reason for kind in CLASSES) == [value for value in ErrorReason.values() if value]


def test_class_names_follow_the_reasons() -> None:
    for kind in CLASSES:
        words = re.findall("[A-Z][a-z]+", kind.__name__.removesuffix("Error"))
        assert "_".join(words).upper() == kind("").reason_name


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_status_has_code_message_reason_and_metadata(kind: type[PolysightError]) -> None:
    status = to_status(kind("say what", metadata={"limit": "8"}))
    assert (status.code, status.message) == (kind.code.value[0], "say what")
    info = error_info(status)
    assert info is not None
    assert (info.reason, info.domain, dict(info.metadata)) == (
        CODES_BY_CLASS[kind],
        "polysight",
        {"limit": "8"},
    )
    assert retry_after_s(status) is None


CODES_BY_CLASS = {kind: ErrorReason.Name(kind.reason).removeprefix("ERROR_REASON_") for kind in CLASSES}


def test_retry_info_is_there_when_a_retry_makes_sense() -> None:
    assert retry_after_s(to_status(errors.QueueFullError("full", retry_after_s=0.25))) == pytest.approx(0.25)
    assert retry_after_s(to_status(errors.QueueFullError("full", retry_after_s=-1))) == 0


async def test_the_request_id_travels_in_the_metadata_unless_the_error_names_another() -> None:
    set_request_id("abc")  # this task's context ends with the test
    info = error_info(to_status(errors.ImageEmptyError("no bytes")))
    assert info is not None
    assert info.metadata["request_id"] == "abc"
    info = error_info(to_status(errors.ImageEmptyError("no bytes", metadata={"request_id": "other"})))
    assert info is not None
    assert info.metadata["request_id"] == "other"


def test_an_unknown_exception_keeps_its_words_to_itself() -> None:
    status = to_status(RuntimeError("password=hunter2 at /srv/secret.py"))
    assert (status.code, status.message) == (grpc.StatusCode.INTERNAL.value[0], "internal error")
    assert b"hunter2" not in status.SerializeToString()
    info = error_info(status)
    assert info is not None
    assert info.reason == "INTERNAL"


def test_a_cancellation_is_cancelled() -> None:
    assert to_status(asyncio.CancelledError()).code == grpc.StatusCode.CANCELLED.value[0]


def test_a_failed_call_keeps_the_details_its_server_sent() -> None:
    sent = to_status(errors.QueueFullError("full", metadata={"queued": "64"}, retry_after_s=1))
    failure = RpcFailure(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "full",
        (("x", "y"), ("grpc-status-details-bin", sent.SerializeToString())),
    )
    assert status_from_rpc_error(failure) == sent
    assert to_status(failure) == sent


@pytest.mark.parametrize(
    "trailers",
    [
        (),
        (("grpc-status-details-bin", b"\xff\xff not a status"),),
        (("grpc-status-details-bin", status_pb2.Status(code=3, message="lies").SerializeToString()),),
    ],
    ids=["none", "garbage", "another code"],
)
def test_a_failed_call_without_true_details_has_its_code_and_message(
    trailers: tuple[tuple[str, str | bytes], ...],
) -> None:
    failure = RpcFailure(grpc.StatusCode.UNAVAILABLE, "connect to 10.0.0.7:50064 failed", trailers)
    status = status_from_rpc_error(failure)
    assert (status.code, status.message) == (
        grpc.StatusCode.UNAVAILABLE.value[0],
        "connect to 10.0.0.7:50064 failed",
    )
    assert not status.details


def test_an_escaped_transport_error_does_not_name_inner_addresses() -> None:
    unavailable = to_status(RpcFailure(grpc.StatusCode.UNAVAILABLE, "connect to 10.0.0.7:50064 failed"))
    assert unavailable.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert "10.0.0.7" not in unavailable.message
    assert (
        to_status(RpcFailure(grpc.StatusCode.UNKNOWN, "10.0.0.7")).code == grpc.StatusCode.INTERNAL.value[0]
    )


def test_a_bare_rpc_error_is_unknown() -> None:
    assert status_from_rpc_error(grpc.RpcError("?")).code == grpc.StatusCode.UNKNOWN.value[0]


@given(st.text(), st.dictionaries(st.text(), st.text(), max_size=40))
def test_any_words_fit_into_trailers(message: str, metadata: dict[str, str]) -> None:
    status = to_status(errors.InvalidFieldError(message * 50, metadata=metadata))
    assert status_pb2.Status.FromString(status.SerializeToString()) == status
    # On the wire: the message percent-encoded, and again inside the base64 of the details; peers allow 8192.
    assert len(quote(status.message)) + status.ByteSize() * 4 / 3 < 7000


def test_lone_surrogates_and_long_words_do_not_break_the_reply() -> None:
    status = to_status(
        errors.InvalidFieldError("\ud800" + "é" * 10_000, metadata={"k" * 999: "v\udfff" * 999})
    )
    assert status.message.startswith("?é")
    assert status.message.endswith("é…")
    assert 590 < len(status.message.encode()) <= errors.MAX_MESSAGE_BYTES


def test_details_of_other_domains_are_not_ours() -> None:
    status = status_pb2.Status(code=5)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="QUOTA", domain="example.org"))
    assert error_info(status) is None


def test_reasons_are_named_as_in_the_contract() -> None:
    assert errors.reason_name(error_reason_pb2.ERROR_REASON_QUEUE_FULL) == "QUEUE_FULL"
