"""What the language model server counts, beside its calls."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from llm_server.engine_report import StepReport, Usage
from llm_server.sequence import FinishedEvent, GenerationRequest
from serving.telemetry.metrics import BATCH_SIZE_BUCKETS, Metrics

# Tokens per second are of this long, at most.
_WINDOW_S = 10.0


class GenerationMetrics:
    """Tokens, waiting and running sequences, blocks of keys and values, prefixes found. Safe from any thread."""

    def __init__(
        self, metrics: Metrics, usage: Callable[[], Usage], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``usage`` says what is in use, and is asked at each scrape."""
        self._clock = clock
        self._steps: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()
        self._prompt = metrics.counter("prompt_tokens", "Tokens of prompts that were answered.")
        self._image = metrics.counter("prompt_image_tokens", "Of them, positions of pictures.")
        self._auxiliary = metrics.counter(
            "auxiliary_tokens", "Tokens made of what experts saw, which take no position of a prompt."
        )
        self._cached = metrics.counter(
            "cached_prompt_tokens", "Tokens of prompts that had been read before and were not read again."
        )
        self._generated = metrics.counter("generated_tokens", "Tokens of answers.")
        self._answers = metrics.counter(
            "answers", "Answers that were completed, by why they ended.", ("reason",)
        )
        self._mix = metrics.counter(
            "adapter_answers", "Answers that were completed, by the adapters they used.", ("adapters",)
        )
        self._first = metrics.histogram("time_to_first_token_seconds", "From arrival to the first token.")
        self._token = metrics.histogram(
            "token_seconds", "Mean time of a token after the first, one value per answer.",
            buckets=(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
        )  # fmt: skip
        self._batch = metrics.histogram(
            "decode_batch_size", "Rows that a step decoded at once.", buckets=BATCH_SIZE_BUCKETS
        )
        self._step = metrics.histogram("step_seconds", "A step of the engine.")
        gauges: dict[str, tuple[str, Callable[[Usage], int]]] = {
            "sequences_running": ("Answers being written.", lambda now: now.running),
            "sequences_waiting": ("Requests that wait for a slot.", lambda now: now.waiting),
            "kv_blocks": ("Blocks of keys and values there are.", lambda now: now.blocks),
            "kv_blocks_in_use": ("Blocks that a sequence holds.", lambda now: now.blocks_in_use),
            "kv_blocks_remembered": (
                "Unused blocks whose content can be found.",
                lambda now: now.blocks_remembered,
            ),
            "preemptions": ("How often an answer made room and was read again.", lambda now: now.preemptions),
        }
        for name, (text, value) in gauges.items():
            metrics.gauge(name, text).set_function(partial(_asked, usage, value))
        metrics.gauge("tokens_per_second", "Tokens of answers, over the last ten seconds.").set_function(
            self.tokens_per_second
        )
        metrics.gauge(
            "prefix_hit_ratio", "Of all tokens of prompts, the part that was not read again."
        ).set_function(self.prefix_hit_ratio)
        self._prompt_total = self._cached_total = 0

    def on_finished(self, end: FinishedEvent, request: GenerationRequest) -> None:
        """An answer to ``request`` was completed."""
        self._prompt.inc(end.prompt_tokens)
        if request.conditioning is not None:
            self._image.inc(request.conditioning.image_tokens)
            self._auxiliary.inc(request.conditioning.auxiliary_tokens)
        self._cached.inc(end.cached_tokens)
        with self._lock:
            self._prompt_total += end.prompt_tokens
            self._cached_total += end.cached_tokens
        self._generated.inc(end.generated_tokens)
        self._answers.labels(end.reason.value).inc()
        self._mix.labels("+".join(name for name, factor in request.adapters if factor != 0.0) or "none").inc()
        self._first.observe(end.first_token_s)
        if end.generated_tokens > 1:
            self._token.observe(end.decode_s / (end.generated_tokens - 1))

    def on_step(self, report: StepReport) -> None:
        """The engine did a step."""
        self._step.observe(report.seconds)
        if report.rows:
            self._batch.observe(report.rows)
        with self._lock:
            self._steps.append((self._clock(), report.tokens))
            self._forget()

    def tokens_per_second(self) -> float:
        """Over the last ten seconds."""
        with self._lock:
            self._forget()
            return sum(tokens for _, tokens in self._steps) / _WINDOW_S

    def prefix_hit_ratio(self) -> float:
        """Since the start; 0 before the first answer."""
        with self._lock:
            return self._cached_total / self._prompt_total if self._prompt_total else 0.0

    def _forget(self) -> None:
        oldest = self._clock() - _WINDOW_S
        while self._steps and self._steps[0][0] < oldest:
            self._steps.popleft()


def _asked(usage: Callable[[], Usage], value: Callable[[Usage], int]) -> float:
    return value(usage())
