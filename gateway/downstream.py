"""What a failed call to a server behind the gateway is called on this side."""

from __future__ import annotations

import grpc
from google.rpc import status_pb2

from serving.errors import (
    ExpertTimedOutError,
    ExpertUnavailableError,
    PolysightError,
    error_info,
    status_from_rpc_error,
    to_status,
)


def timed_out(who: str, budget_s: float) -> ExpertTimedOutError:
    """`who` did not answer within `budget_s` seconds."""
    return ExpertTimedOutError(
        f"{who} did not answer within {budget_s:.2f} s",
        metadata={"expert": who, "budget_ms": str(round(budget_s * 1000))},
    )


def unavailable(who: str) -> ExpertUnavailableError:
    """`who` could not be reached. The transport's own words stay out: they name inner addresses."""
    return ExpertUnavailableError(f"{who} could not be reached", metadata={"expert": who}, retry_after_s=1.0)


def failure(error: BaseException, who: str, budget_s: float) -> BaseException:
    """`error` of a call to `who`, as one of ours where it says no more than "nobody there" or "too late".

    An error for which the other side gave a reason of the contract, and one that is not about transport, is
    returned as it is.
    """
    if isinstance(error, TimeoutError):
        return timed_out(who, budget_s)
    if isinstance(error, grpc.RpcError):
        status = status_from_rpc_error(error)
        if error_info(status) is None:
            if status.code == grpc.StatusCode.UNAVAILABLE.value[0]:
                return unavailable(who)
            if status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]:
                return timed_out(who, budget_s)
    return error


def status_of(error: BaseException) -> status_pb2.Status:
    """The status a report shows for `error`: as the other side put it, or in the words of the contract."""
    if isinstance(error, grpc.RpcError) and not isinstance(error, PolysightError):
        return status_from_rpc_error(error)
    return to_status(error)
