"""The gateway process: `python -m gateway`, told where the others are by `GATEWAY_*_ADDRESS`."""

from __future__ import annotations

import gc
import os

# Before any numeric library is loaded: idle threads that spin take the cores from the other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from gateway.settings import GatewaySettings
from gateway.wiring import build
from serving.server import run, serve
from serving.settings import load_settings
from serving.telemetry.metrics import Metrics


async def main() -> int:
    """Serve until told to stop; returns the exit code."""
    settings = load_settings(GatewaySettings)
    metrics = Metrics("gateway")
    gateway = build(settings, metrics)

    async def warm_up() -> None:
        await gateway.warm_up()
        # What is loaded by now stays: out of the garbage collector's sight, its runs between requests are short.
        gc.collect()
        gc.freeze()

    return await serve(
        service="gateway",
        settings=settings,
        servicers=[gateway.service.servicer()],
        metrics=metrics,
        warm_up=warm_up,
        close=gateway.close,
    )


if __name__ == "__main__":
    run(main())
