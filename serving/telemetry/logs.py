"""Structured logs: one JSON object a line on standard error.

Each line has `timestamp` (UTC), `level`, `logger`, `service`, `event`, and within a call
`request_id`, `trace_id` and `span_id`. What libraries log through :mod:`logging` takes the same form.
Get a logger with `structlog.get_logger(__name__)` and pass facts as keywords: `log.info("loaded",
model=name, seconds=0.4)`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog
from opentelemetry import trace

from serving.request_id import current_request_id

EventDict = MutableMapping[str, Any]

# Chatty at info, and nobody's business unless something is wrong.
_QUIET: Final = ("grpc", "asyncio", "urllib3", "httpx", "filelock", "PIL", "opentelemetry")


def configure_logs(service: str, level: str, *, stream: TextIO | None = None) -> None:
    """Log as `service` at `level` (debug, info, warning, error) to `stream`, standard error by default.

    Sets the process's logging anew at each call; meant for the composition root.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    output = stream or sys.stderr

    def add_service(_logger: object, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        add_call,
        # As text and without local variables: those hold what callers sent.
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared[1:], structlog.processors.JSONRenderer(default=str)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)


def add_call(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Add the ids of the call being served, if any."""
    if request_id := current_request_id():
        event.setdefault("request_id", request_id)
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event
