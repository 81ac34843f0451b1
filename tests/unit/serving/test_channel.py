"""What a channel is told: targets, service config, arguments."""

from __future__ import annotations

import pytest

from serving.channel import channel_options, service_config, target


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ocr:50064", "dns:///ocr:50064"),
        ("127.0.0.1:50064", "dns:///127.0.0.1:50064"),
        ("[::1]:50064", "dns:///[::1]:50064"),
        ("dns:///ocr:50064", "dns:///ocr:50064"),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
        ("unix:///run/ocr.sock", "unix:///run/ocr.sock"),
    ],
)
def test_plain_addresses_go_through_dns(address: str, expected: str) -> None:
    assert target(address) == expected


def test_calls_are_balanced_and_retried_within_bounds() -> None:
    config = service_config(max_attempts=3)
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    [method] = config["methodConfig"]
    assert method["name"] == [{}]
    assert method["retryPolicy"]["maxAttempts"] == 3
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert "healthCheckConfig" not in config


def test_one_attempt_means_no_retries() -> None:
    assert "methodConfig" not in service_config(max_attempts=1)


def test_health_checking_names_the_service() -> None:
    config = service_config(health_service="polysight.vision.v1.OcrService")
    assert config["healthCheckConfig"] == {"serviceName": "polysight.vision.v1.OcrService"}


def test_a_retry_has_room_for_the_largest_request() -> None:
    options = dict(
        channel_options(
            max_message_bytes=12345,
            health_service=None,
            max_attempts=3,
            keepalive_s=2.5,
            keepalive_timeout_s=1.5,
        )
    )
    assert options["grpc.per_rpc_retry_buffer_size"] == 12345
    assert options["grpc.keepalive_time_ms"] == 2500
    assert options["grpc.http2.ping_timeout_ms"] == options["grpc.keepalive_timeout_ms"] == 1500
    assert options["grpc.max_reconnect_backoff_ms"] == 1000
