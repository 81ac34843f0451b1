"""The real gateway and the dummies, each in a process of its own: for measuring, and for killing.

with DummyProcesses() as mesh:
    mesh.signal("ocr", signal.SIGKILL)
    mesh.start("ocr")
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Self

from bench.dummy_mesh import free_port
from gateway.experts import KINDS

DUMMIES = (*(kind.name for kind in KINDS), "llm_server")


class DummyProcesses:
    """Six processes on free ports of this machine; all are gone when the block is left.

    Attributes:
        ports: of each, by name ("ocr", "llm_server", "gateway").
    """

    def __init__(self) -> None:
        self.ports = {name: free_port() for name in (*DUMMIES, "gateway")}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Start all; they may take seconds until they serve."""
        for name in self.ports:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all, by force where nothing else helps."""
        for process in self._running.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, name: str) -> None:
        """Start one, at the port where the others look for it."""
        module = ["gateway"] if name == "gateway" else ["bench.dummies", name, str(self.ports[name])]
        self._running[name] = subprocess.Popen(
            [sys.executable, "-m", *module], env=os.environ | self._settings()
        )

    def pid(self, name: str) -> int:
        """Process id."""
        return self._running[name].pid

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal; after SIGKILL, wait until the process is gone."""
        process = self._running[name]
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait()

    def _settings(self) -> dict[str, str]:
        return {
            "OMP_WAIT_POLICY": "PASSIVE",
            "GATEWAY_PORT": str(self.ports["gateway"]),
            "GATEWAY_METRICS_PORT": "0",
            "GATEWAY_LOG_LEVEL": "warning",
            "GATEWAY_DRAIN_PAUSE_S": "0",
        } | {f"GATEWAY_{name.upper()}_ADDRESS": f"127.0.0.1:{self.ports[name]}" for name in DUMMIES}
