"""Channels to the other services of the mesh: balanced over all replicas, quick to find a restarted one
again.
"""

from __future__ import annotations

import json
from typing import Any, Final

import grpc
from opentelemetry.trace import TracerProvider

from serving.interceptors.client import client_interceptors
from serving.settings import DEFAULT_MAX_MESSAGE_BYTES

_SCHEMES: Final = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:", "passthrough:")


def open_channel(
    address: str,
    *,
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    health_service: str | None = None,
    max_attempts: int = 3,
    keepalive_s: float = 10.0,
    keepalive_timeout_s: float = 10.0,
    provider: TracerProvider | None = None,
    intercepted: bool = True,
) -> grpc.aio.Channel:
    """An insecure channel to `address` (`host:port`, or a gRPC target with its scheme); the caller closes it.

    Calls go round over all addresses that the name resolves to. With `health_service` (a full service name)
    those that say NOT_SERVING for it are left out. A call that fails as UNAVAILABLE before its first reply is
    tried up to `max_attempts` times in all, within its deadline; 1 turns that off.

    A peer that does not answer pings (hung, or the network is gone) is given up `keepalive_timeout_s` after a
    ping, which is sent when nothing was heard for `keepalive_s`; from then on calls fail at once instead of
    waiting for their deadlines, until it answers again.

    Request id and trace context go with every call, by interceptors with spans of `provider`. Interceptors cost a call
    a third of a millisecond; who counts that passes `intercepted=False` and sends what `Telling.begin` gives.
    """
    return grpc.aio.insecure_channel(
        target(address),
        options=channel_options(
            max_message_bytes=max_message_bytes,
            health_service=health_service,
            max_attempts=max_attempts,
            keepalive_s=keepalive_s,
            keepalive_timeout_s=keepalive_timeout_s,
        ),
        interceptors=client_interceptors(provider) if intercepted else None,
    )


def target(address: str) -> str:
    """`host:port` as a gRPC target: by DNS, so that every address of a headless service is used."""
    return address if address.startswith(_SCHEMES) else f"dns:///{address}"


def service_config(*, health_service: str | None = None, max_attempts: int = 3) -> dict[str, Any]:
    """The gRPC service config of a channel."""
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if health_service is not None:
        config["healthCheckConfig"] = {"serviceName": health_service}
    if max_attempts > 1:
        retry = {
            "maxAttempts": max_attempts,
            "initialBackoff": "0.05s",
            "maxBackoff": "0.5s",
            "backoffMultiplier": 3,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["methodConfig"] = [{"name": [{}], "retryPolicy": retry}]
        # When most calls fail, retries only add to the load: they stop until calls succeed again.
        config["retryThrottling"] = {"maxTokens": 20, "tokenRatio": 0.2}
    return config


def channel_options(
    *,
    max_message_bytes: int,
    health_service: str | None,
    max_attempts: int,
    keepalive_s: float,
    keepalive_timeout_s: float,
) -> list[tuple[str, str | int]]:
    """gRPC channel arguments of a client."""
    return [
        (
            "grpc.service_config",
            json.dumps(service_config(health_service=health_service, max_attempts=max_attempts)),
        ),
        ("grpc.service_config_disable_resolution", 1),
        # A call whose request does not fit this buffer (256 KiB by default: no photo does) is never retried.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # The peers are in the mesh: a proxy from the environment would only be in the way.
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # Also the time that one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
        ("grpc.keepalive_time_ms", round(keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(keepalive_timeout_s * 1000)),
        # The ping itself has a time limit of its own, a minute by default, and the longer of the two counts.
        ("grpc.http2.ping_timeout_ms", round(keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
