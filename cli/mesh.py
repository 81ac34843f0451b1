"""The mesh on one machine: starts the six processes, waits until each has warmed up, stops them in order.

Used by `polysight up`, by the demo and by the end-to-end tests. Every process is a plain child with its settings in
environment variables; its output goes to one log file per process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

HOST = "127.0.0.1"

# glibc keeps what is freed for a process that may want it again: tens of megabytes after a batch of large pictures.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(4 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(16 * 2**20)}

# Asking takes both sides some milliseconds, which a starting process needs for itself.
_POLL_S = 0.3


@dataclass(frozen=True)
class ProcessSpec:
    """One process of the mesh: its name, the module that starts it, its usual port."""

    name: str
    module: str
    port: int

    @property
    def env_prefix(self) -> str:
        """Prefix of the process's settings, such as `SCENE_GRAPH_`."""
        return f"{self.name.upper()}_"


EXPERTS = (
    ProcessSpec("panoptic", "services.panoptic", 50061),
    ProcessSpec("detection", "services.detection", 50062),
    ProcessSpec("scene_graph", "services.scene_graph", 50063),
    ProcessSpec("ocr", "services.ocr", 50064),
)
LLM_SERVER = ProcessSpec("llm_server", "llm_server", 50065)
GATEWAY = ProcessSpec("gateway", "gateway", 50060)
# The language model takes longest to load, so it starts first.
PROCESSES = (LLM_SERVER, *EXPERTS, GATEWAY)


class MeshError(RuntimeError):
    """A process of the mesh did not come up, or died; the message ends with the tail of its log."""


@dataclass
class MeshProcess:
    """A running child. `address` is host:port of its gRPC server."""

    spec: ProcessSpec
    port: int
    log_path: Path
    popen: subprocess.Popen[bytes]
    started_at: float = field(default_factory=time.monotonic)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def is_serving(self, timeout_s: float = 2.0) -> bool:
        """Whether its health service says SERVING for the process as a whole."""
        return is_serving(self.address, timeout_s)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; a process that is already gone is left in peace."""
        with contextlib.suppress(ProcessLookupError):
            self.popen.send_signal(number)


def is_serving(address: str, timeout_s: float = 2.0) -> bool:
    """Whether the gRPC server at `address` answers its health check with SERVING within `timeout_s` seconds."""
    with grpc.insecure_channel(address) as channel:
        # The stub's methods are made at run time; its type stubs do not list them.
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports that nobody listens on right now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


class Mesh:
    """The six processes on this machine.

    Args:
        log_dir: folder for one log file per process; made if absent.
        ports: gRPC port of each process by name; default: the usual ones.
        metrics: serve Prometheus metrics at port + 1000.
        environment: further environment variables for every process.
        on_ready: called with each process's name and seconds since the start, as it becomes ready.
    """

    def __init__(
        self,
        log_dir: Path,
        *,
        ports: Mapping[str, int] | None = None,
        metrics: bool = False,
        environment: Mapping[str, str] | None = None,
        on_ready: Callable[[str, float], None] | None = None,
    ) -> None:
        self._log_dir = log_dir
        self._ports = dict(ports) if ports is not None else {spec.name: spec.port for spec in PROCESSES}
        self._metrics = metrics
        self._environment = dict(environment or {})
        self._on_ready = on_ready
        self.processes: dict[str, MeshProcess] = {}

    @classmethod
    def on_free_ports(cls, log_dir: Path, **options: object) -> Mesh:
        """A mesh that disturbs no other on this machine."""
        names = [spec.name for spec in PROCESSES]
        return cls(log_dir, ports=dict(zip(names, free_ports(len(names)), strict=True)), **options)  # type: ignore[arg-type]

    @property
    def gateway_address(self) -> str:
        return f"{HOST}:{self._ports[GATEWAY.name]}"

    def address(self, name: str) -> str:
        """host:port of a process by name."""
        return f"{HOST}:{self._ports[name]}"

    def start(self, timeout_s: float = 300.0) -> None:
        """Starts all processes and waits until every one is SERVING.

        Raises MeshError if one dies or is not ready in time; the others are stopped before it is raised.
        """
        try:
            for spec in PROCESSES:
                self.start_process(spec)
            self._wait_ready(time.monotonic() + timeout_s)
        except BaseException:
            self.stop()
            raise

    def start_process(self, spec: ProcessSpec) -> MeshProcess:
        """Starts one process (again) without waiting for it."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        log_path = self._log_dir / f"{spec.name}.log"
        port = self._ports[spec.name]
        environment = {
            **os.environ,
            # Spinning OpenMP threads of six processes on shared cores starve one another.
            "OMP_WAIT_POLICY": "PASSIVE",
            **_MALLOC,
            f"{spec.env_prefix}HOST": HOST,
            f"{spec.env_prefix}PORT": str(port),
            f"{spec.env_prefix}METRICS_PORT": str(port + 1000 if self._metrics else 0),
            **(self._gateway_addresses() if spec is GATEWAY else {}),
            **self._environment,
        }
        with log_path.open("ab") as log:
            popen = subprocess.Popen(
                [sys.executable, "-m", spec.module],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C belongs to the parent, which stops its children in order.
                start_new_session=True,
            )
        process = MeshProcess(spec, port, log_path, popen)
        self.processes[spec.name] = process
        return process

    def wait_serving(self, name: str, timeout_s: float = 120.0) -> None:
        """Waits until one process is SERVING; raises MeshError if it dies or takes longer."""
        self._await(self.processes[name], time.monotonic() + timeout_s)

    def dead(self) -> Iterator[MeshProcess]:
        """The processes that have exited."""
        return (process for process in self.processes.values() if process.popen.poll() is not None)

    def stop(self, timeout_s: float = 40.0) -> dict[str, int]:
        """SIGTERM to all, the gateway first so that nothing asks the others any more; exit codes by name.

        A process that is still there after `timeout_s` is killed.
        """
        deadline = time.monotonic() + timeout_s
        for process in reversed(list(self.processes.values())):
            process.signal(signal.SIGTERM)
            # A stopped process (SIGSTOP) sees SIGTERM only once it runs again.
            process.signal(signal.SIGCONT)
        codes: dict[str, int] = {}
        for name, process in self.processes.items():
            try:
                codes[name] = process.popen.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                codes[name] = process.popen.wait()
        self.processes.clear()
        return codes

    def _gateway_addresses(self) -> dict[str, str]:
        return {
            f"GATEWAY_{spec.name.upper()}_ADDRESS": self.address(spec.name) for spec in (*EXPERTS, LLM_SERVER)
        }

    def _wait_ready(self, deadline: float) -> None:
        waiting = list(self.processes.values())
        while waiting:
            still: list[MeshProcess] = []
            for process in waiting:
                if self._is_up(process, deadline):
                    if self._on_ready is not None:
                        self._on_ready(process.spec.name, time.monotonic() - process.started_at)
                else:
                    still.append(process)
            waiting = still
            if waiting:
                time.sleep(_POLL_S)

    def _await(self, process: MeshProcess, deadline: float) -> None:
        while not self._is_up(process, deadline):
            time.sleep(_POLL_S)

    def _is_up(self, process: MeshProcess, deadline: float) -> bool:
        code = process.popen.poll()
        name = process.spec.name
        if code is not None:
            raise MeshError(
                f"{name} exited with code {code} while starting; its log {process.log_path} ends:\n"
                f"{process.log_tail()}"
            )
        if process.is_serving(timeout_s=1.0):
            return True
        if time.monotonic() > deadline:
            raise MeshError(
                f"{name} is not ready in time; its log {process.log_path} ends:\n{process.log_tail()}"
            )
        return False
