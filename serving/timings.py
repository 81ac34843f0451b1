"""Where the time of one image went inside an expert."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from polysight.common.v1 import model_pb2


@dataclass(frozen=True)
class StageTimings:
    """Seconds per stage, and how many images shared the batch."""

    queue_s: float
    preprocess_s: float
    inference_s: float
    postprocess_s: float
    batch_size: int

    def to_proto(self) -> model_pb2.Timings:
        """The same as the contract's message."""
        return model_pb2.Timings(
            queue=duration(self.queue_s),
            preprocess=duration(self.preprocess_s),
            inference=duration(self.inference_s),
            postprocess=duration(self.postprocess_s),
            batch_size=self.batch_size,
        )


def duration(seconds: float) -> Duration:
    """`seconds` as a protobuf Duration, to the nanosecond."""
    # Not `FromNanoseconds`, which is written in Python and takes four times as long, five times a request.
    whole, nanos = divmod(round(abs(seconds) * 1e9), 10**9)
    return Duration(seconds=whole, nanos=nanos) if seconds >= 0 else Duration(seconds=-whole, nanos=-nanos)
