"""One expert in a process of its own, as it is deployed: started, warmed up, on a free port, stopped afterwards.

with ExpertProcess("detection", "polysight.vision.v1.DetectionService") as expert:
    channel = grpc.insecure_channel(expert.address)
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.dummy_mesh import free_port

_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 20.0


class ExpertProcess:
    """`python -m services.NAME` with its own defaults but for ports and log.

    Args:
        name: of the package ("detection").
        service: full gRPC name, whose health is asked for.
        settings: environment besides ("DETECTION_MAX_BATCH": "1").

    Attributes:
        address: host and port.
    """

    def __init__(self, name: str, service: str, *, settings: Mapping[str, str] | None = None) -> None:
        self._name, self._service = name, service
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Process id. Raises RuntimeError before the process was started."""
        if self._process is None:
            raise RuntimeError(f"{self._name} was not started")
        return self._process.pid

    def __enter__(self) -> Self:
        """Start and wait until it serves. Raises RuntimeError if it ends before, TimeoutError if it takes too long."""
        prefix = self._name.upper()
        own = {
            f"{prefix}_PORT": str(self._port),
            f"{prefix}_METRICS_PORT": "0",
            f"{prefix}_LOG_LEVEL": "error",
            f"{prefix}_DRAIN_PAUSE_S": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"services.{self._name}"], env=os.environ | own | self._settings
        )
        try:
            self._wait_until_serving(self._process)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, by force where nothing else helps."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_serving(self, process: subprocess.Popen[bytes]) -> None:
        give_up = time.monotonic() + _START_TIMEOUT_S
        with grpc.insecure_channel(self.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < give_up:
                if process.poll() is not None:
                    raise RuntimeError(f"{self._name} ended with code {process.returncode} before it served")
                with contextlib.suppress(grpc.RpcError):  # it does not listen yet
                    answer = health.Check(health_pb2.HealthCheckRequest(service=self._service), timeout=2)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                time.sleep(0.1)
        raise TimeoutError(f"{self._name} did not serve within {_START_TIMEOUT_S:.0f} s")
