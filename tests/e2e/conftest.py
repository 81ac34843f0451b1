"""A mesh of six real processes on free ports, shared by all tests here: each leaves it as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cli.connection import channel_to
from cli.mesh import PROCESSES, Mesh
from polysight.gateway.v1 import polysight_pb2_grpc as gateway_grpc


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Started once; ends with every exit code 0."""
    logs: Path = tmp_path_factory.mktemp("logs")
    # As on Kubernetes, a process that is told to stop looks away slowly: a call already on its way still finds it.
    pauses = {f"{spec.env_prefix}DRAIN_PAUSE_S": "4" for spec in PROCESSES}
    mesh = Mesh.on_free_ports(logs, environment=pauses)
    mesh.start()
    yield mesh
    codes = mesh.stop()
    assert codes == dict.fromkeys(codes, 0), {
        name: (logs / f"{name}.log").read_text()[-2000:] for name in codes
    }


@pytest.fixture
def channel(mesh: Mesh) -> Iterator[grpc.Channel]:
    """A channel to the gateway."""
    with channel_to(mesh.gateway_address) as channel:
        yield channel


@pytest.fixture
def polysight(channel: grpc.Channel) -> gateway_grpc.PolysightServiceStub:
    """The front door."""
    return gateway_grpc.PolysightServiceStub(channel)
