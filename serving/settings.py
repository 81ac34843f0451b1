"""What every process can be told from its environment.

Each process subclasses `ServerSettings`, gives its own `env_prefix` (`PANOPTIC_`, `GATEWAY_`,
...) and its own default ports, builds the settings once in its `__main__` and passes plain values down. An
address that a process cannot work without is a field with no default, so that the process stops at start and
names it.
"""

from __future__ import annotations

import sys
from typing import Annotated, Literal, NoReturn, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LogLevel = Literal["debug", "info", "warning", "error"]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# One image of 20 MiB, its JSON or protobuf envelope, and room: the largest message of the mesh.
DEFAULT_MAX_MESSAGE_BYTES = 64 * 2**20


class ServerSettings(BaseSettings):
    """Life cycle, limits and telemetry of one server process. Times are in seconds."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 or [::] in a container")
    port: Port = Field(description="gRPC port; 0 picks a free one")
    metrics_port: Port = Field(0, description="Prometheus HTTP port; 0 serves no metrics")
    max_message_bytes: int = Field(
        DEFAULT_MAX_MESSAGE_BYTES, ge=1024, le=2**31 - 1, description="largest gRPC message, received or sent"
    )
    max_concurrent_calls: int = Field(
        128, ge=1, description="calls in progress above which a new one is refused with RESOURCE_EXHAUSTED"
    )

    drain_pause_s: Seconds = Field(
        0.5, description="from NOT_SERVING to refusing new calls: time for balancers to look away"
    )
    drain_grace_s: Seconds = Field(
        30.0, description="for calls in progress to finish; what is left is then cancelled"
    )
    close_timeout_s: Seconds = Field(10.0, description="for engines and queues to be closed after the drain")

    max_connection_age_s: Seconds = Field(
        300.0, description="a connection older than this is asked to reconnect; 0 means never"
    )
    max_connection_age_grace_s: Seconds = Field(
        300.0, description="for calls on such a connection to finish before it is closed"
    )
    keepalive_time_s: Annotated[float, Field(ge=1)] = Field(
        30.0, description="idle time after which the server pings its peer"
    )
    keepalive_timeout_s: Annotated[float, Field(gt=0)] = Field(
        20.0, description="without an answer to the ping for this long the connection is closed"
    )

    log_level: LogLevel = Field("info", description="debug, info, warning or error")
    otlp_endpoint: str | None = Field(
        None, description="OpenTelemetry collector (http://host:4317); none exports no spans"
    )

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.port and self.port == self.metrics_port:
            raise ValueError(f"port and metrics_port are both {self.port}")
        return self


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load_settings(kind: type[SettingsT]) -> SettingsT:
    """Build `kind` from the environment, or stop the process with exit code 2 and one line for each fault.

    Each line names the environment variable, so that the person who reads it knows what to set.
    """
    try:
        return kind()
    except ValidationError as error:
        _refuse(kind, error)


def _refuse(kind: type[BaseSettings], error: ValidationError) -> NoReturn:
    prefix = kind.model_config.get("env_prefix", "")
    for fault in error.errors():
        name = (
            (prefix + "__".join(str(part) for part in fault["loc"])).upper()
            if fault["loc"]
            else kind.__name__
        )
        print(f"{name}: {fault['msg']}", file=sys.stderr)
    raise SystemExit(2)
