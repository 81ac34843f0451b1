"""OpenTelemetry spans: who makes them, and where they go.

Every call has a trace id, so that its log lines can be found in every process; spans are recorded and exported
only when a collector is named, since recording costs a busy gateway about a millisecond a request. Context
crosses processes as W3C `traceparent` metadata, see `serving.interceptors`.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_NAMESPACE, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON


def configure_traces(service: str, otlp_endpoint: str | None) -> TracerProvider:
    """Make the provider of `service` and, unless the process has one already, the process's own.

    `otlp_endpoint` (`http://host:4317`) gets the spans over OTLP/gRPC from a thread that never holds up a
    call; an unreachable collector costs spans, not requests. The caller shuts the provider down, which sends
    what is left.
    """
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: service, SERVICE_NAMESPACE: "polysight"}),
        shutdown_on_exit=False,
        # Ids without records: what is not recorded still has a context that propagates.
        sampler=DEFAULT_ON if otlp_endpoint else ALWAYS_OFF,
    )
    if otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(
            endpoint=otlp_endpoint, insecure=otlp_endpoint.startswith("http://"), timeout=5
        )
        provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=4096))
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(provider)
    return provider
