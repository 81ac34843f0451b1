"""Counts each call and writes its one line in the access log."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import grpc
import structlog
from prometheus_client import Counter, Gauge, Histogram

from serving.interceptors.around import Behaviour, Context
from serving.telemetry.metrics import Metrics, RpcMetrics

_CODES: Final = {code.value[0]: code.name for code in grpc.StatusCode}

log = structlog.get_logger(__name__)


class ObserveInterceptor:
    """Outside of the errors interceptor, so that it sees the code that the caller sees."""

    def __init__(self, metrics: Metrics) -> None:
        self._rpc = metrics.rpc
        self._of_method: dict[str, _OfMethod] = {}

    async def around(self, method: str, behaviour: Behaviour, request: Any, context: Context) -> Any:
        """Time the call, count it under its code and log it."""
        started = time.perf_counter()
        code = "UNKNOWN"
        counted = self._of_method.get(method)
        if counted is None:
            counted = self._of_method[method] = _OfMethod(self._rpc, method)
        counted.in_flight.inc()
        try:
            reply = await behaviour(request, context)
            code = code_name(context)
            return reply
        except asyncio.CancelledError:
            code = "DEADLINE_EXCEEDED" if _expired(context) else "CANCELLED"
            raise
        except grpc.aio.AbortError:
            code = code_name(context)
            raise
        finally:
            seconds = time.perf_counter() - started
            counted.in_flight.dec()
            counted.requests(code).inc()
            counted.duration.observe(seconds)
            log.info("rpc", method=method, code=code, ms=round(seconds * 1e3, 2))


class _OfMethod:
    """The counters of one method, looked up by their labels once and not at each call."""

    def __init__(self, rpc: RpcMetrics, method: str) -> None:
        self._rpc, self._method = rpc, method
        self._requests: dict[str, Counter] = {}
        self.in_flight: Gauge = rpc.in_flight.labels(method)
        self.duration: Histogram = rpc.duration.labels(method)

    def requests(self, code: str) -> Counter:
        """Calls that ended with `code`."""
        counter = self._requests.get(code)
        if counter is None:
            counter = self._requests[code] = self._rpc.requests.labels(self._method, code)
        return counter


def code_name(context: Context) -> str:
    """The code that the call ends with, as far as the handler has said: `OK` unless it set or aborted with
    another.
    """
    code: object = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODES.get(code, "UNKNOWN") if isinstance(code, int) else "OK"


def _expired(context: Context) -> bool:
    remaining: float | None = context.time_remaining()
    return remaining is not None and remaining <= 0
