"""What the language model server counts, beside its calls."""

from __future__ import annotations

from collections.abc import Callable

from llm_server.sequence import FinishedEvent
from serving.telemetry.metrics import Metrics


class GenerationMetrics:
    """Tokens, waiting and running sequences, time to first token. Safe from any thread."""

    def __init__(self, metrics: Metrics, load: Callable[[], tuple[int, int]]) -> None:
        """``load`` says how many sequences run and how many wait, and is asked at each scrape."""
        self._prompt = metrics.counter("prompt_tokens", "Tokens of prompts that were answered.")
        self._generated = metrics.counter("generated_tokens", "Tokens of answers.")
        self._answers = metrics.counter(
            "answers", "Answers that were completed, by why they ended.", ("reason",)
        )
        self._first = metrics.histogram("time_to_first_token_seconds", "From arrival to the first token.")
        self._token = metrics.histogram(
            "token_seconds", "Mean time of a token after the first, one value per answer.",
            buckets=(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
        )  # fmt: skip
        metrics.gauge("sequences_running", "Answers being written.").set_function(lambda: load()[0])
        metrics.gauge("sequences_waiting", "Requests that wait for a slot.").set_function(lambda: load()[1])

    def on_finished(self, end: FinishedEvent) -> None:
        """An answer was completed."""
        self._prompt.inc(end.prompt_tokens)
        self._generated.inc(end.generated_tokens)
        self._answers.labels(end.reason.value).inc()
        self._first.observe(end.first_token_s)
        if end.generated_tokens > 1:
            self._token.observe(end.decode_s / (end.generated_tokens - 1))
