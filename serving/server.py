"""From the first line of a process's log to its exit code: what every `__main__` ends with.

    run(serve(service="ocr", settings=settings, servicers=[...], metrics=metrics, warm_up=..., close=...))

Exit codes: 0 after SIGTERM or SIGINT, 1 if the port is taken, the warm-up fails or closing does, 3 if the
device was lost: only a new process can use it again, so whatever supervises this one should start it anew.
Settings that do not hold end the process with 2 before any of this (`serving.settings.load_settings`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, NoReturn

import structlog
from opentelemetry.sdk.trace import TracerProvider

from serving.grpc_server import AddressInUseError, Server, Servicer
from serving.settings import ServerSettings
from serving.telemetry.logs import configure_logs
from serving.telemetry.metrics import Metrics
from serving.telemetry.traces import configure_traces

__all__ = ["Servicer", "run", "serve"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# Native threads (a stuck device, a download) can keep the interpreter from ending long after all is closed.
_EXIT_TIMEOUT_S: Final = 10.0
DEVICE_LOST_CODE: Final = 3
# The tracing exporter may wait for a collector that is gone.
_FLUSH_TIMEOUT_S: Final = 5.0

log = structlog.get_logger(__name__)


async def serve(
    *,
    service: str,
    settings: ServerSettings,
    servicers: Sequence[Servicer],
    metrics: Metrics,
    warm_up: Callable[[], Awaitable[None]],
    close: Callable[[], Awaitable[None]],
) -> int:
    """Serve until SIGTERM or SIGINT, or until the device is lost, and return the exit code.

    `warm_up` loads and runs the models once; until it is done every call is refused as NOT_READY and health
    says NOT_SERVING. On the first signal: NOT_SERVING, `drain_pause_s` in which calls are still taken,
    `drain_grace_s` for those in progress to finish, then `close`. A second signal cancels what is left of the
    waiting. A lost device ends the process the same way, but for calls, which are refused from then on.
    """
    configure_logs(service, settings.log_level)
    provider = configure_traces(service, settings.otlp_endpoint)
    server = Server(settings=settings, servicers=servicers, metrics=metrics, provider=provider)
    code = 0
    with _Signals() as signals:
        try:
            await server.start()
            log.info("listening", address=server.address, metrics_port=settings.metrics_port or None)
            if await _warmed_up(warm_up, signals, settings.close_timeout_s):
                await server.ready()
                log.info("serving", address=server.address)
                if await _lost_before(signals, server):
                    code = DEVICE_LOST_CODE
                    _leave_within(_time_to_end(settings), code)
            await _drain(server, settings, signals)
        except AddressInUseError as error:
            log.error(str(error))
            code = 1
        except Exception:
            log.exception("cannot serve")
            await server.stop(0)
            code = 1
        try:
            await asyncio.wait_for(close(), settings.close_timeout_s)
        except Exception:
            log.exception("closing failed")
            code = code or 1
        await _flush(provider, settings.otlp_endpoint)
    log.info("stopped", exit_code=code)
    return code


async def _flush(provider: TracerProvider, endpoint: str | None) -> None:
    """Send the last spans, if the collector takes them."""
    try:
        await asyncio.wait_for(asyncio.to_thread(provider.shutdown), _FLUSH_TIMEOUT_S)
    except TimeoutError:
        log.warning("spans were lost: the collector does not answer", endpoint=endpoint)


def run(main: Coroutine[Any, Any, int]) -> NoReturn:
    """Run `main` and leave the process with the exit code it returns."""
    with asyncio.Runner() as runner:
        code = runner.run(main)
        _leave_within(_EXIT_TIMEOUT_S, code)
    if code == DEVICE_LOST_CODE:
        # What the device's libraries would still do at the end may hang or abort.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _leave_within(seconds: float, code: int) -> None:
    """End the process after so long, whatever its threads do."""
    watchdog = threading.Timer(seconds, os._exit, (code,))
    watchdog.daemon = True
    watchdog.start()


def _time_to_end(settings: ServerSettings) -> float:
    """Seconds from NOT_SERVING to the end of the process, if nothing hangs."""
    waits = settings.drain_pause_s + settings.drain_grace_s + settings.close_timeout_s
    return waits + _FLUSH_TIMEOUT_S + _EXIT_TIMEOUT_S


class _Signals:
    """SIGTERM and SIGINT as two events: the first signal asks, the second insists."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> _Signals:
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._received, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)

    def _received(self, number: signal.Signals) -> None:
        log.info("signal", name=signal.Signals(number).name, again=self.first.is_set())
        (self.second if self.first.is_set() else self.first).set()


async def _warmed_up(warm_up: Callable[[], Awaitable[None]], signals: _Signals, patience_s: float) -> bool:
    """Whether the warm-up finished; False if a signal came first. Raises what the warm-up raises."""
    warming = asyncio.ensure_future(warm_up())
    stopping = asyncio.ensure_future(signals.first.wait())
    try:
        await asyncio.wait({warming, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if warming.done():
        warming.result()
        return True
    warming.cancel()
    await asyncio.wait({warming}, timeout=patience_s)
    return False


async def _lost_before(signals: _Signals, server: Server) -> bool:
    """Wait for a signal or for the device to be lost; whether it was the device."""
    ends = [asyncio.ensure_future(event.wait()) for event in (signals.first, server.device_lost)]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()
    return server.device_lost.is_set()


async def _drain(server: Server, settings: ServerSettings, signals: _Signals) -> None:
    """NOT_SERVING, the pause, the grace; the second signal ends either."""
    await server.not_ready()
    log.info("draining", pause_s=settings.drain_pause_s, grace_s=settings.drain_grace_s)
    insisted = asyncio.ensure_future(signals.second.wait())
    try:
        await asyncio.wait({insisted}, timeout=settings.drain_pause_s)
        stopping = asyncio.ensure_future(server.stop(0 if insisted.done() else settings.drain_grace_s))
        await asyncio.wait({insisted, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await server.stop(0)
        await stopping
    finally:
        insisted.cancel()
