"""From how an expert's call ended to the report the caller reads."""

from __future__ import annotations

from google.rpc import code_pb2, status_pb2

from gateway.downstream import failure, status_of, timed_out
from gateway.experts import KIND_OF, ExpertId, ExpertReply
from gateway.fanout import Ended, Ending
from polysight.gateway.v1 import polysight_pb2
from serving.timings import duration

OUTCOME_NAMES = {
    polysight_pb2.OUTCOME_OK: "ok",
    polysight_pb2.OUTCOME_FAILED: "failed",
    polysight_pb2.OUTCOME_TIMED_OUT: "timed_out",
    polysight_pb2.OUTCOME_SKIPPED: "skipped",
}
"""As metrics and logs call them."""


def skipped(expert: ExpertId) -> polysight_pb2.ExpertReport:
    """The report of an expert that nobody asked."""
    return polysight_pb2.ExpertReport(
        expert=expert,
        outcome=polysight_pb2.OUTCOME_SKIPPED,
        status=status_pb2.Status(message="not asked"),
        elapsed=duration(0.0),
    )


def report(ended: Ended[ExpertId, ExpertReply]) -> polysight_pb2.ExpertReport:
    """The report of an expert that was asked."""
    kind = KIND_OF[ended.key]
    written = polysight_pb2.ExpertReport(expert=ended.key, elapsed=duration(ended.elapsed_s))
    if ended.ending is Ending.OK and ended.result is not None:
        written.outcome = polysight_pb2.OUTCOME_OK
        written.status.SetInParent()
        written.cached = ended.result.cached
        getattr(written, kind.field).CopyFrom(ended.result.result)
        return written
    error = failure(ended.error or timed_out(kind.name, ended.budget_s), kind.name, ended.budget_s)
    written.status.CopyFrom(status_of(error))
    late = ended.ending is Ending.TIMED_OUT or written.status.code == code_pb2.DEADLINE_EXCEEDED
    written.outcome = polysight_pb2.OUTCOME_TIMED_OUT if late else polysight_pb2.OUTCOME_FAILED
    return written
