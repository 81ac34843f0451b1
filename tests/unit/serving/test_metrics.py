"""Names carry the service's prefix, registries are separate, and the HTTP endpoint can be closed."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Sequence

import pytest

from serving.telemetry.metrics import Metrics
from serving.timings import StageTimings


def test_names_have_the_prefix_of_the_service() -> None:
    metrics = Metrics("scene_graph")
    metrics.counter("cache_hits", "Hits.", ("kind",)).labels("exact").inc(2)
    metrics.gauge("loaded", "Loaded.").set(3)
    metrics.histogram("size", "Size.", buckets=(1, 2)).observe(1.5)
    assert metrics.value("scene_graph_cache_hits_total", {"kind": "exact"}) == 2
    assert metrics.value("scene_graph_loaded") == 3
    assert metrics.value("scene_graph_size_bucket", {"le": "2.0"}) == 1
    for line in metrics.text().splitlines():
        assert line.startswith(("#", "scene_graph_")), line


def test_two_services_in_one_process_do_not_meet() -> None:
    first, second = Metrics("ocr"), Metrics("ocr")
    first.counter("seen", "Seen.").inc()
    assert second.value("ocr_seen_total") is None


def test_a_batcher_is_watched() -> None:
    metrics = Metrics("ocr")
    waiting = [7.0]
    observed = metrics.batcher(lambda: waiting[0])

    def double(items: Sequence[int]) -> list[int]:
        return [2 * item for item in items]

    assert observed.watching(double)([1, 2, 3]) == [2, 4, 6]
    observed.on_stages(
        StageTimings(queue_s=0.2, preprocess_s=0.1, inference_s=0.4, postprocess_s=0.3, batch_size=3)
    )
    assert metrics.value("ocr_batch_size_sum") == 3
    assert metrics.value("ocr_batch_run_seconds_count") == 1
    assert metrics.value("ocr_batch_queue_depth") == 7
    waiting[0] = 0
    assert metrics.value("ocr_batch_queue_depth") == 0
    sums = {
        stage: metrics.value("ocr_stage_seconds_sum", {"stage": stage})
        for stage in ("queue", "preprocess", "inference", "postprocess")
    }
    assert sums == {"queue": 0.2, "preprocess": 0.1, "inference": 0.4, "postprocess": 0.3}


def test_a_failing_batch_is_counted_too() -> None:
    metrics = Metrics("ocr")

    def fail(items: Sequence[int]) -> Sequence[int]:
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        metrics.batcher(lambda: 0).watching(fail)([1])
    assert metrics.value("ocr_batch_run_seconds_count") == 1


def test_the_endpoint_serves_and_gives_its_port_back() -> None:
    metrics = Metrics("ocr")
    port = metrics.start_http("127.0.0.1", 0)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        assert b"ocr_rpc_in_flight" in reply.read()
    with pytest.raises(RuntimeError):
        metrics.start_http("127.0.0.1", 0)
    metrics.close()
    metrics.close()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
