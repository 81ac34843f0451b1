"""The store hands out verified files or a reason, whatever sources, disks and other processes do."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from serving.weights import Manifest, UnknownArtifactError, WeightStore, WeightsUnavailableError
from serving.weights.errors import SourceError
from serving.weights.manifest import SourceSpec
from serving.weights.sources import Source

MakeManifest = Callable[..., Manifest]


class Scripted:
    """A source that yields what it was given, then fails if told to."""

    def __init__(
        self, label: str, chunks: list[bytes], error: Exception | None = None, delay_s: float = 0
    ) -> None:
        self._label = label
        self._chunks = chunks
        self._error = error
        self._delay_s = delay_s
        self.calls = 0

    @property
    def label(self) -> str:
        return self._label

    def chunks(self) -> Iterator[bytes]:
        self.calls += 1
        time.sleep(self._delay_s)
        yield from self._chunks
        if self._error is not None:
            raise self._error


def scripted_store(root: Path, manifest: Manifest, *sources: Scripted, offline: bool = False) -> WeightStore:
    """A store whose n-th manifest source is the n-th scripted one."""
    (entry,) = manifest.artifacts.values()
    by_spec = {spec.model_dump_json(): source for spec, source in zip(entry.sources, sources, strict=True)}

    def open_source(spec: SourceSpec, downloads: Path) -> Source:
        return by_spec[spec.model_dump_json()]

    return WeightStore(root, manifest=manifest, offline=offline, open_source=open_source)


def files(root: Path, folder: str) -> list[str]:
    return sorted(path.name for path in (root / folder).rglob("*") if path.is_file())


def test_fetches_once_and_then_serves_the_cache(
    tmp_path: Path, web: Any, make_manifest: MakeManifest, content: bytes
) -> None:
    store = WeightStore(tmp_path, manifest=make_manifest(web.url("/good")), offline=False)
    assert not store.status("net").cached
    assert store.fetch("net").read_bytes() == content
    assert store.fetch("net") == store.status("net").path
    assert web.requests == ["/good"]
    assert store.status("net").cached
    assert files(tmp_path, "partial") == []


def test_follows_a_redirect_as_release_pages_have_them(
    tmp_path: Path, web: Any, make_manifest: MakeManifest, content: bytes
) -> None:
    store = WeightStore(tmp_path, manifest=make_manifest(web.url("/redirect")), offline=False)
    assert store.fetch("net").read_bytes() == content


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/flipped", "SHA-256 is"),
        ("/short", "of 1280000 bytes"),
        ("/long", "more than the 1280000 bytes"),
        ("/cut", "bytes"),
        ("/absent", "HTTP 404"),
    ],
)
def test_a_source_that_fails_names_itself_and_the_next_is_tried(
    tmp_path: Path,
    web: Any,
    make_manifest: MakeManifest,
    content: bytes,
    caplog: pytest.LogCaptureFixture,
    path: str,
    reason: str,
) -> None:
    store = WeightStore(tmp_path, manifest=make_manifest(web.url(path), web.url("/good")), offline=False)
    assert store.fetch("net").read_bytes() == content
    assert web.requests == [path, "/good"]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert web.url(path) in warning
    assert reason in warning


def test_when_all_sources_fail_the_error_lists_each_and_nothing_is_left(
    tmp_path: Path, web: Any, make_manifest: MakeManifest
) -> None:
    manifest = make_manifest(web.url("/flipped"), web.url("/absent"), "http://127.0.0.1:9/closed")
    store = WeightStore(tmp_path, manifest=manifest, offline=False)
    with pytest.raises(WeightsUnavailableError) as caught:
        store.fetch("net")
    assert [failure.source for failure in caught.value.failures] == [
        web.url("/flipped"),
        web.url("/absent"),
        "http://127.0.0.1:9/closed",
    ]
    message = str(caught.value)
    assert "SHA-256 is" in message
    assert "HTTP 404" in message
    assert "not reachable" in message
    assert files(tmp_path, "artifacts") == files(tmp_path, "partial") == []


def test_the_next_source_starts_from_the_beginning(
    tmp_path: Path, make_manifest: MakeManifest, content: bytes
) -> None:
    broken = Scripted("broken", [content[:500_000]], SourceError("connection lost"))
    whole = Scripted("whole", [content[:7], content[7:]])
    store = scripted_store(tmp_path, make_manifest("http://a/", "http://b/"), broken, whole)
    assert store.fetch("net").read_bytes() == content
    assert (broken.calls, whole.calls) == (1, 1)


def test_a_full_disk_is_said_at_once_and_no_other_source_is_bothered(
    tmp_path: Path, make_manifest: MakeManifest, content: bytes
) -> None:
    full = Scripted("first", [content[:500_000]], OSError(errno.ENOSPC, "No space left on device"))
    second = Scripted("second", [content])
    store = scripted_store(tmp_path, make_manifest("http://a/", "http://b/"), full, second)
    with pytest.raises(WeightsUnavailableError, match=r"cannot write to .*No space left"):
        store.fetch("net")
    assert second.calls == 0
    assert files(tmp_path, "artifacts") == files(tmp_path, "partial") == []


def test_offline_serves_the_cache(
    tmp_path: Path, web: Any, make_manifest: MakeManifest, content: bytes
) -> None:
    manifest = make_manifest(web.url("/good"))
    WeightStore(tmp_path, manifest=manifest, offline=False).fetch("net")
    assert WeightStore(tmp_path, manifest=manifest, offline=True).fetch("net").read_bytes() == content
    assert web.requests == ["/good"]


def test_offline_without_a_cache_says_what_to_run(
    tmp_path: Path, web: Any, make_manifest: MakeManifest
) -> None:
    store = WeightStore(tmp_path, manifest=make_manifest(web.url("/good")), offline=True)
    with pytest.raises(WeightsUnavailableError, match="polysight weights fetch net"):
        store.fetch("net")
    assert web.requests == []


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_environment_decides_root_and_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, offline: bool
) -> None:
    monkeypatch.setenv("POLYSIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("POLYSIGHT_OFFLINE", value)
    store = WeightStore()
    assert store.root == tmp_path / "cache"
    assert store.offline is offline


@pytest.mark.parametrize("damage", [b"", b"torn"])
def test_a_torn_file_in_the_cache_is_fetched_again(
    tmp_path: Path, web: Any, make_manifest: MakeManifest, content: bytes, damage: bytes
) -> None:
    store = WeightStore(tmp_path, manifest=make_manifest(web.url("/good")), offline=False)
    store.fetch("net").write_bytes(damage)
    assert not store.status("net").cached
    assert store.fetch("net").read_bytes() == content
    assert web.requests == ["/good", "/good"]


def test_a_file_of_the_right_size_but_touched_is_hashed_again(
    tmp_path: Path, web: Any, make_manifest: MakeManifest, content: bytes
) -> None:
    store = WeightStore(tmp_path, manifest=make_manifest(web.url("/good")), offline=False)
    path = store.fetch("net")
    path.write_bytes(content)  # the same bytes at another time: hashed, found right, kept
    assert store.fetch("net").read_bytes() == content
    assert web.requests == ["/good"]
    path.write_bytes(bytes(len(content)))  # the right size, the wrong bytes
    assert store.fetch("net").read_bytes() == content
    assert web.requests == ["/good", "/good"]


def test_verify_hashes_even_what_its_stamp_vouches_for(
    tmp_path: Path, web: Any, make_manifest: MakeManifest, content: bytes
) -> None:
    store = WeightStore(tmp_path, manifest=make_manifest(web.url("/good")), offline=False)
    path = store.fetch("net")
    before = path.stat()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.fetch("net").read_bytes() != content  # the quick check is deceived ...
    assert store.verify("net").read_bytes() == content  # ... and this one is not


def test_a_file_put_into_the_cache_by_hand_is_verified(
    tmp_path: Path, web: Any, make_manifest: MakeManifest, content: bytes
) -> None:
    store = WeightStore(tmp_path, manifest=make_manifest(web.url("/good")), offline=True)
    path = store.status("net").path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert store.fetch("net") == path
    assert web.requests == []


def test_copyleft_is_announced_when_fetched_and_only_then(
    tmp_path: Path, web: Any, make_manifest: MakeManifest, caplog: pytest.LogCaptureFixture
) -> None:
    store = WeightStore(
        tmp_path, manifest=make_manifest(web.url("/good"), licence="AGPL-3.0-only"), offline=False
    )
    store.fetch("net")
    assert "net is licensed AGPL-3.0-only" in caplog.text
    caplog.clear()
    store.fetch("net")
    assert caplog.text == ""
    assert store.licence("net").copyleft


def _fetch_in_a_process(root: str, url: str, manifest_json: str, start: Any) -> bytes:
    manifest = Manifest.model_validate_json(manifest_json)
    start.wait()
    return WeightStore(Path(root), manifest=manifest, offline=False).fetch("net").read_bytes()


def test_processes_racing_fetch_once(
    tmp_path: Path, web: Any, make_manifest: MakeManifest, content: bytes
) -> None:
    manifest = make_manifest(web.url("/good"))
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(2) as pool:
        start = manager.Barrier(2)
        arguments = (str(tmp_path), web.url("/good"), manifest.model_dump_json(), start)
        results = [pool.apply_async(_fetch_in_a_process, arguments) for _ in range(2)]
        assert [result.get(timeout=60) for result in results] == [content, content]
    assert web.requests == ["/good"]


def test_threads_racing_fetch_once(tmp_path: Path, make_manifest: MakeManifest, content: bytes) -> None:
    source = Scripted("slow", [content], delay_s=0.2)
    store = scripted_store(tmp_path, make_manifest("http://a/"), source)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: store.fetch("net"), range(4)))
    assert len(set(paths)) == 1
    assert source.calls == 1


def test_an_unknown_artifact_is_refused_with_the_known_ones(
    tmp_path: Path, make_manifest: MakeManifest
) -> None:
    store = WeightStore(tmp_path, manifest=make_manifest("http://a/"))
    with pytest.raises(UnknownArtifactError, match=r"no artifact 'yolo99'.*net"):
        store.fetch("yolo99")


class Builder:
    """Builds a file, slowly, and counts; fails the first `failures` times after writing half."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(self, path: Path) -> None:
        with self._lock:
            self.calls += 1
        path.write_text("half")
        time.sleep(0.1)
        if self.calls <= self.failures:
            raise RuntimeError("the exporter fell over")
        path.write_text("whole")


def test_derive_builds_once_per_key(tmp_path: Path) -> None:
    store, build = WeightStore(tmp_path), Builder()
    first = store.derive("net.onnx", key="a", build=build)
    assert first.name == "net.onnx"
    assert first.read_text() == "whole"
    assert store.derive("net.onnx", key="a", build=build) == first
    assert build.calls == 1
    assert store.derive("net.onnx", key="b", build=build) != first
    assert build.calls == 2
    assert store.is_derived("net.onnx", key="a")
    assert not store.is_derived("net.onnx", key="c")


def test_derive_leaves_nothing_of_a_build_that_failed(tmp_path: Path) -> None:
    store, build = WeightStore(tmp_path), Builder(failures=1)
    with pytest.raises(RuntimeError, match="fell over"):
        store.derive("net.onnx", key="a", build=build)
    assert not store.is_derived("net.onnx", key="a")
    assert files(tmp_path, "partial") == files(tmp_path, "derived") == []
    assert store.derive("net.onnx", key="a", build=build).read_text() == "whole"


def test_derive_refuses_a_build_that_wrote_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"net\.onnx"):
        WeightStore(tmp_path).derive("net.onnx", key="a", build=lambda path: None)


def test_derive_keeps_folders_and_what_lies_beside(tmp_path: Path) -> None:
    def build(path: Path) -> None:
        path.mkdir()
        (path / "model.safetensors").write_text("w")
        path.with_name("note.txt").write_text("n")

    made = WeightStore(tmp_path).derive("smol", key="a", build=build)
    assert (made / "model.safetensors").read_text() == "w"
    assert made.with_name("note.txt").read_text() == "n"


def test_threads_racing_derive_build_once(tmp_path: Path) -> None:
    store, build = WeightStore(tmp_path), Builder()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: store.derive("n", key="a", build=build).read_text(), range(4)))
    assert made == ["whole"] * 4
    assert build.calls == 1
