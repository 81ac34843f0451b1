"""What the gateway counts besides what every server counts."""

from __future__ import annotations

from typing import Final

from serving.telemetry.metrics import Metrics

# What the gateway adds is milliseconds; the default buckets begin where it should have ended.
_ADDED_BUCKETS_S: Final = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


class GatewayMetrics:
    """Experts by outcome, their latency as seen from here, and what the gateway adds to the slowest one."""

    def __init__(self, metrics: Metrics) -> None:
        self._outcomes = metrics.counter(
            "expert_calls", "Experts' parts in requests, by how they ended.", ("expert", "outcome")
        )
        self._seconds = metrics.histogram(
            "expert_seconds", "From an expert's call to its end, as the gateway saw it.", ("expert",)
        )
        self._added = metrics.histogram(
            "perceive_added_seconds",
            "Time of a perception that no expert accounts for: all of it less the slowest expert's.",
            buckets=_ADDED_BUCKETS_S,
        )
        self._first_token = metrics.histogram(
            "time_to_first_token_seconds", "From an Answer's arrival to its first token."
        )

    def on_expert(self, expert: str, outcome: str, elapsed_s: float) -> None:
        """An expert's part has ended; `outcome` as in `reports.OUTCOME_NAMES`."""
        self._outcomes.labels(expert, outcome).inc()
        if outcome != "skipped":
            self._seconds.labels(expert).observe(elapsed_s)

    def on_perceived(self, added_s: float) -> None:
        """A perception is complete; `added_s` seconds of it are the gateway's own."""
        self._added.observe(max(0.0, added_s))

    def on_first_token(self, elapsed_s: float) -> None:
        """The first token of an answer came `elapsed_s` seconds after the request."""
        self._first_token.observe(elapsed_s)
