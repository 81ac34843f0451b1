"""One JSON object a line, whoever logs."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from serving.request_id import set_request_id
from serving.telemetry.logs import configure_logs


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs("ocr", "info", stream=stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_a_line_says_when_who_and_what(output: io.StringIO) -> None:
    structlog.get_logger("serving.test").info("loaded", model="tiny", seconds=0.5, path=object)
    [line] = lines(output)
    assert {key: line[key] for key in ("event", "level", "service", "model", "seconds")} == {
        "event": "loaded",
        "level": "info",
        "service": "ocr",
        "model": "tiny",
        "seconds": 0.5,
    }
    assert line["timestamp"].endswith("Z")
    assert "request_id" not in line


async def test_within_a_call_a_line_has_its_ids(output: io.StringIO) -> None:
    set_request_id("order-66")
    with TracerProvider(shutdown_on_exit=False).get_tracer("test").start_as_current_span("call") as span:
        structlog.get_logger().info("inside")
        logging.getLogger("library").warning("inside too")
    context = span.get_span_context()
    for line in lines(output):
        assert line["request_id"] == "order-66"
        assert line["trace_id"] == f"{context.trace_id:032x}"
        assert line["span_id"] == f"{context.span_id:016x}"
    assert len(lines(output)) == 2


def test_libraries_log_in_the_same_form(output: io.StringIO) -> None:
    logging.getLogger("some.library").warning("disk %s is full", "sda")
    [line] = lines(output)
    assert (line["event"], line["level"], line["logger"], line["service"]) == (
        "disk sda is full",
        "warning",
        "some.library",
        "ocr",
    )


def test_levels_are_obeyed(output: io.StringIO) -> None:
    structlog.get_logger().debug("too quiet")
    logging.getLogger("some.library").debug("too quiet")
    logging.getLogger("grpc").info("chatter")
    assert not lines(output)


def test_a_traceback_is_text_and_shows_no_variables(output: io.StringIO) -> None:
    secret = "hunter" + "2"
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("some.library").exception("failed")
    for line in lines(output):
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("ValueError: broken")
        assert secret not in line["exception"]
    assert len(lines(output)) == 2


def test_line_breaks_and_odd_values_stay_inside_one_line(output: io.StringIO) -> None:
    structlog.get_logger().info("two\nlines", data=b"\xff", odd={1, 2})
    assert len(lines(output)) == 1


def test_warnings_are_logged(output: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old way", stacklevel=1)
    logged = lines(output)
    assert any("old way" in line["event"] for line in logged)
