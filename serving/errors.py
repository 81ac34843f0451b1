"""Every way a call can fail: one exception class per reason of `polysight.common.v1.ErrorReason`.

Code anywhere raises these; one interceptor (`serving.interceptors.errors`) puts them on the wire as a
`google.rpc.Status` with an `ErrorInfo` (and a `RetryInfo` where trying again later makes sense). What
is not one of these is a fault of ours: the caller reads "internal error" and a request id, the log has the
rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from polysight.common.v1 import error_reason_pb2
from polysight.common.v1.error_reason_pb2 import ErrorReason
from serving.request_id import current_request_id

ERROR_DOMAIN: Final = "polysight"
DETAILS_METADATA_KEY: Final = "grpc-status-details-bin"
REASON_PREFIX: Final = "ERROR_REASON_"
INTERNAL_MESSAGE: Final = "internal error"

# Trailers travel as HTTP/2 headers, which peers cap at 8 KiB in all. There `grpc-message` has three characters for
# each byte that is not ASCII, and the details, which repeat the message, are in base64: together below 6 KiB.
MAX_MESSAGE_BYTES: Final = 600
MAX_METADATA_BYTES: Final = 2000
MAX_METADATA_VALUE_BYTES: Final = 300


class PolysightError(Exception):
    """A failure with a place in the contract.

    `message` is read by the caller: it says what was wrong and what would be right, and holds no secrets
    and no paths. `metadata` is for programs (strings only). `retry_after_s` tells when trying again makes
    sense, in seconds.
    """

    code: ClassVar[grpc.StatusCode]
    reason: ClassVar[ErrorReason]

    def __init__(
        self, message: str, *, metadata: Mapping[str, str] | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after_s = retry_after_s

    @property
    def reason_name(self) -> str:
        """The reason as it stands in `ErrorInfo.reason`, such as `IMAGE_CORRUPT`."""
        return reason_name(self.reason)


class ImageEmptyError(PolysightError):
    """The request carries no image bytes."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = error_reason_pb2.ERROR_REASON_IMAGE_EMPTY


class ImageUnsupportedFormatError(PolysightError):
    """The bytes are not an image of a supported format."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = error_reason_pb2.ERROR_REASON_IMAGE_UNSUPPORTED_FORMAT


class ImageCorruptError(PolysightError):
    """The image is of a supported format, but truncated or damaged."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = error_reason_pb2.ERROR_REASON_IMAGE_CORRUPT


class ImageTooLargeError(PolysightError):
    """More bytes or pixels than this server decodes."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = error_reason_pb2.ERROR_REASON_IMAGE_TOO_LARGE


class InvalidFieldError(PolysightError):
    """A field breaks a rule written in the contract."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = error_reason_pb2.ERROR_REASON_INVALID_FIELD


class CrayonMalformedError(PolysightError):
    """The index maps of a crayon prompt do not fit their size or their vocabulary."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = error_reason_pb2.ERROR_REASON_CRAYON_MALFORMED


class PromptTooLongError(PolysightError):
    """The prompt has more tokens than the model's context leaves room for."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = error_reason_pb2.ERROR_REASON_PROMPT_TOO_LONG


class UnsupportedOptionError(PolysightError):
    """A well-formed option that this server or model does not offer."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = error_reason_pb2.ERROR_REASON_UNSUPPORTED_OPTION


class ModelNotFoundError(PolysightError):
    """No such model."""

    code = grpc.StatusCode.NOT_FOUND
    reason = error_reason_pb2.ERROR_REASON_MODEL_NOT_FOUND


class AdapterNotFoundError(PolysightError):
    """No such adapter for the model."""

    code = grpc.StatusCode.NOT_FOUND
    reason = error_reason_pb2.ERROR_REASON_ADAPTER_NOT_FOUND


class AdapterMismatchError(PolysightError):
    """The adapter was trained for another base model."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = error_reason_pb2.ERROR_REASON_ADAPTER_MISMATCH


class QueueFullError(PolysightError):
    """The queue is full; nothing was computed. Say when to come back."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = error_reason_pb2.ERROR_REASON_QUEUE_FULL


class DeadlineUnreachableError(PolysightError):
    """The caller's deadline cannot be met, so the work was dropped before it started."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = error_reason_pb2.ERROR_REASON_DEADLINE_UNREACHABLE


class NotReadyError(PolysightError):
    """The process is up, but has not warmed up yet. Say when to come back."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = error_reason_pb2.ERROR_REASON_NOT_READY


class ShuttingDownError(PolysightError):
    """The process is shutting down and takes no new work."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = error_reason_pb2.ERROR_REASON_SHUTTING_DOWN


class ExpertUnavailableError(PolysightError):
    """An expert or the language model server could not be reached."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = error_reason_pb2.ERROR_REASON_EXPERT_UNAVAILABLE


class ExpertTimedOutError(PolysightError):
    """An expert did not answer within its budget."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = error_reason_pb2.ERROR_REASON_EXPERT_TIMED_OUT


class InternalError(PolysightError):
    """Something broke that is not the caller's doing. The message reaches the caller: say nothing private."""

    code = grpc.StatusCode.INTERNAL
    reason = error_reason_pb2.ERROR_REASON_INTERNAL


def reason_name(reason: ErrorReason) -> str:
    """`ERROR_REASON_QUEUE_FULL` is written `QUEUE_FULL` in `ErrorInfo.reason`."""
    return ErrorReason.Name(reason).removeprefix(REASON_PREFIX)


def to_status(error: BaseException) -> status_pb2.Status:
    """Put `error` into the words of the contract, with `ErrorInfo` and, where known, `RetryInfo`.

    The id of the current request is added to the metadata. A downstream call that failed with a reason of
    ours keeps it; one that found nobody, or nobody in time, keeps its code without the words of the
    transport, which name inner addresses. A cancellation is CANCELLED, and every unknown exception is just
    "internal error".
    """
    if isinstance(error, PolysightError):
        return _status(error)
    if isinstance(error, grpc.RpcError):
        status = status_from_rpc_error(error)
        if error_info(status) is not None:
            return status
        if status.code in {code_pb2.UNAVAILABLE, code_pb2.DEADLINE_EXCEEDED}:
            return status_pb2.Status(code=status.code, message="a service behind this one did not answer")
    if isinstance(error, asyncio.CancelledError):
        return status_pb2.Status(code=code_pb2.CANCELLED, message="cancelled")
    return _status(InternalError(INTERNAL_MESSAGE))


def status_from_rpc_error(error: grpc.RpcError) -> status_pb2.Status:
    """The status a failed call came back with, details included when the server sent any that agree with its
    code.

    Without details (the server was not reached, the deadline passed here, a proxy answered) it has only code
    and message.
    """
    code = _code_of(error)
    for key, value in _trailers_of(error):
        if key != DETAILS_METADATA_KEY or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
        except DecodeError:
            break
        if status.code == code:
            return status
        break
    details = error.details() if callable(getattr(error, "details", None)) else None
    return status_pb2.Status(code=code, message=_clean(details or "", MAX_MESSAGE_BYTES))


def error_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    """The `ErrorInfo` of this project in `status`, or None."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
            return info
    return None


def retry_after_s(status: status_pb2.Status) -> float | None:
    """The delay in seconds that `status` asks for before the next try, or None."""
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToTimedelta().total_seconds())
    return None


def _status(error: PolysightError) -> status_pb2.Status:
    status = status_pb2.Status(code=_number(error.code), message=_clean(error.message, MAX_MESSAGE_BYTES))
    info = error_details_pb2.ErrorInfo(reason=error.reason_name, domain=ERROR_DOMAIN)
    room = MAX_METADATA_BYTES
    for key, value in error.metadata.items():
        name, text = _clean(key, 64), _clean(str(value), MAX_METADATA_VALUE_BYTES)
        room -= len(name.encode()) + len(text.encode())
        if room < 0:
            break
        info.metadata[name] = text
    if (request_id := current_request_id()) and "request_id" not in info.metadata:
        info.metadata["request_id"] = request_id
    status.details.add().Pack(info)
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(max(0, round(error.retry_after_s * 1e9)))
        status.details.add().Pack(retry)
    return status


def _code_of(error: grpc.RpcError) -> int:
    code = error.code() if callable(getattr(error, "code", None)) else None
    return _number(code) if isinstance(code, grpc.StatusCode) else code_pb2.UNKNOWN


def _trailers_of(error: grpc.RpcError) -> Iterable[tuple[str, str | bytes]]:
    trailers = error.trailing_metadata() if callable(getattr(error, "trailing_metadata", None)) else None
    return cast("Iterable[tuple[str, str | bytes]]", trailers or ())


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number


def _clean(text: str, limit: int) -> str:
    """`text` as valid UTF-8 of at most `limit` bytes; a lone surrogate would break the whole reply."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode("utf-8")
    return encoded[: limit - 3].decode("utf-8", "ignore") + "…"
