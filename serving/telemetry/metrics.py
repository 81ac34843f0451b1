"""Prometheus metrics of one process, each name prefixed with the name of the service.

Every `Metrics` has a registry of its own, so that several services can live in one test process, and nothing
is registered by importing a module. Names follow the Prometheus conventions: base units (seconds, bytes),
`_total` on counters.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    start_http_server,
)

from serving.timings import StageTimings

T = TypeVar("T")
R = TypeVar("R")

# From a cached reply to a long answer, in seconds.
DURATION_BUCKETS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
BATCH_SIZE_BUCKETS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


@dataclass(frozen=True)
class RpcMetrics:
    """What the observing interceptor counts. Labels: `method` is `/package.Service/Method`, `code` like
    `OK`.
    """

    requests: Counter
    duration: Histogram
    in_flight: Gauge


@dataclass(frozen=True)
class BatcherMetrics:
    """What a batcher and the stages around it did. Cheap, and safe from any thread."""

    size: Histogram
    run: Histogram
    stage: Histogram
    _stages: tuple[Histogram, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Look the labels up once: four of them a request cost as much as counting does."""
        names = ("queue", "preprocess", "inference", "postprocess")
        children = tuple(self.stage.labels(name) for name in names)
        object.__setattr__(self, "_stages", children)

    def watching(self, run: Callable[[Sequence[T]], Sequence[R]]) -> Callable[[Sequence[T]], Sequence[R]]:
        """`run`, with the size and duration of each batch counted; give it to the batcher in place of `run`."""

        def watched(items: Sequence[T]) -> Sequence[R]:
            self.size.observe(len(items))
            with self.run.time():
                return run(items)

        return watched

    def on_stages(self, timings: StageTimings) -> None:
        """One image went through all stages."""
        queue, preprocess, inference, postprocess = self._stages
        queue.observe(timings.queue_s)
        preprocess.observe(timings.preprocess_s)
        inference.observe(timings.inference_s)
        postprocess.observe(timings.postprocess_s)


class Metrics:
    """Makes and keeps the metrics of `service` (such as `scene_graph`), and serves them over HTTP if
    asked.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self.registry = CollectorRegistry()
        ProcessCollector(namespace=service, registry=self.registry)
        self.rpc = RpcMetrics(
            requests=self.counter("rpc_requests", "Calls that ended, by their code.", ("method", "code")),
            duration=self.histogram("rpc_duration_seconds", "From a call's arrival to its end.", ("method",)),
            in_flight=self.gauge("rpc_in_flight", "Calls in progress.", ("method",)),
        )
        self._http: tuple[WSGIServer, threading.Thread] | None = None

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        """A counter; `_total` is added to its name."""
        return Counter(f"{self.service}_{name}", help_text, labels, registry=self.registry)

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
        """A value that goes up and down."""
        return Gauge(f"{self.service}_{name}", help_text, labels, registry=self.registry)

    def histogram(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float] = DURATION_BUCKETS_S,
    ) -> Histogram:
        """A distribution; the default buckets are for durations in seconds."""
        return Histogram(
            f"{self.service}_{name}", help_text, labels, registry=self.registry, buckets=tuple(buckets)
        )

    def batcher(self, depth: Callable[[], float]) -> BatcherMetrics:
        """The metrics of the process's batcher. `depth` is asked for the number of waiting items at each
        scrape.

        Refused and dropped items are in `rpc_requests_total` already, by code.
        """
        self.gauge("batch_queue_depth", "Items that wait for the device.").set_function(depth)
        return BatcherMetrics(
            size=self.histogram("batch_size", "Items in a batch.", buckets=BATCH_SIZE_BUCKETS),
            run=self.histogram("batch_run_seconds", "A batch on the device."),
            stage=self.histogram("stage_seconds", "One image in one stage.", ("stage",)),
        )

    def value(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        """The present value of one sample by its full name, or None; for tests and for `doctor`."""
        return self.registry.get_sample_value(name, labels or {})

    def text(self) -> str:
        """Everything, in the Prometheus text format."""
        return generate_latest(self.registry).decode()

    def start_http(self, host: str, port: int) -> int:
        """Serve `/metrics` from a thread of its own; returns the port. OSError if the port is taken."""
        if self._http is not None:
            raise RuntimeError("metrics are already being served")
        self._http = start_http_server(port, addr=host, registry=self.registry)
        return int(self._http[0].server_port)

    def close(self) -> None:
        """Stop serving; harmless if nothing is served."""
        if self._http is None:
            return
        server, thread = self._http
        self._http = None
        server.shutdown()
        server.server_close()
        thread.join()
