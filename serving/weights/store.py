"""The cache of weights: fetch once, verify, keep, and never hand out a file that is not what the manifest
says.

Layout under the root (`POLYSIGHT_CACHE`, default `~/.cache/polysight`)::

    artifacts/<first 16 hex of sha256>/<filename>            a verified file
    artifacts/<first 16 hex of sha256>/<filename>.verified   size and mtime it had when it was hashed
    derived/<16 hex of name and key>/<name>                  what `derive` built
    partial/<random>/                                        work in progress, or what a killed process left
    locks/

A file arrives under `partial/`, is hashed while it arrives, flushed to disk and only then renamed to its
place, so a name under `artifacts/` has been verified once. Afterwards `fetch` trusts it as long as its size
and modification time are those of that moment, and hashes it again when they are not: a torn or edited file
is thrown away and fetched anew. `verify` always hashes; whatever is about to unpickle a file calls that.

What a killed process left under `partial/` goes when anything is next fetched or built; work in progress stays (see
`scratch.py`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from serving.weights.errors import SourceError, SourceFailure, WeightsUnavailableError
from serving.weights.locks import file_lock
from serving.weights.manifest import Artifact, Manifest, SourceSpec
from serving.weights.progress import Advance, ShowProgress, for_this_terminal
from serving.weights.scratch import scratch_folder
from serving.weights.sources import CHUNK, Source, open_source

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArtifactInfo:
    """What the manifest says of an artifact. `licence` is an SPDX identifier, `size` is in bytes."""

    name: str
    sha256: str
    size: int
    licence: str
    note: str

    @property
    def version(self) -> str:
        """The name under which services report these weights: the beginning of the hash."""
        return f"sha256:{self.sha256[:12]}"

    @property
    def copyleft(self) -> bool:
        """Whether serving these weights to others carries the duties of the (A)GPL."""
        return self.licence.startswith(("AGPL", "GPL"))


@dataclass(frozen=True)
class ArtifactStatus:
    """An artifact and whether a usable copy is cached; `path` is where it is or would be."""

    info: ArtifactInfo
    cached: bool
    path: Path


class WeightStore:
    """Verified weights by name.

    `offline` (default: `POLYSIGHT_OFFLINE` is set to something other than `0`) serves from the cache only.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        manifest: Manifest | None = None,
        offline: bool | None = None,
        open_source: Callable[[SourceSpec, Path], Source] = open_source,
        show_progress: ShowProgress | None = None,
    ) -> None:
        self._root = root if root is not None else default_root()
        self._manifest = manifest if manifest is not None else Manifest.default()
        self._offline = (
            offline if offline is not None else os.environ.get("POLYSIGHT_OFFLINE", "0") not in {"", "0"}
        )
        self._open_source = open_source
        self._show_progress = show_progress if show_progress is not None else for_this_terminal()

    @property
    def root(self) -> Path:
        """The folder of the cache; it need not exist yet."""
        return self._root

    @property
    def offline(self) -> bool:
        """Whether only the cache is used."""
        return self._offline

    def licence(self, artifact: str) -> ArtifactInfo:
        """What the manifest says of `artifact`; touches neither cache nor network. Raises
        UnknownArtifactError.
        """
        entry = self._manifest.artifact(artifact)
        return ArtifactInfo(artifact, entry.sha256, entry.size, entry.licence, entry.note)

    def list(self) -> tuple[ArtifactInfo, ...]:
        """Every artifact of the manifest, in its order."""
        return tuple(self.licence(name) for name in self._manifest.artifacts)

    def status(self, artifact: str) -> ArtifactStatus:
        """Whether `artifact` is cached (size and modification time as verified); fetches nothing."""
        entry = self._manifest.artifact(artifact)
        path = self._path(entry)
        return ArtifactStatus(self.licence(artifact), _stamp_agrees(path, entry), path)

    def fetch(self, artifact: str) -> Path:
        """The verified file of `artifact`, fetched if it is not cached.

        Raises UnknownArtifactError, or WeightsUnavailableError naming each source that was tried and why it
        failed.
        """
        return self.fetch_many([artifact])[0]

    def fetch_many(self, artifacts: Iterable[str]) -> tuple[Path, ...]:
        """`fetch` for several artifacts; those that are members of one registry package share its
        download.
        """
        entries = [(name, self._manifest.artifact(name)) for name in artifacts]
        missing = [(name, entry) for name, entry in entries if not _stamp_agrees(self._path(entry), entry)]
        if missing:
            with self._scratch() as scratch:
                for name, entry in missing:
                    self._fetch_one(name, entry, scratch)
        return tuple(self._path(entry) for _, entry in entries)

    def verify(self, artifact: str) -> Path:
        """The cached or fetched file of `artifact`, its SHA-256 computed now, from the bytes on disk.

        Raises as `fetch` does; a cached file that no longer hashes to the manifest's value is fetched again.
        """
        entry = self._manifest.artifact(artifact)
        path = self.fetch(artifact)
        if _sha256(path) != entry.sha256:
            _stamp(path).unlink(missing_ok=True)
            path = self.fetch(artifact)
        return path

    def derive(self, name: str, *, key: str, build: Callable[[Path], None]) -> Path:
        """A product computed from weights (say, an exported graph), built once and cached.

        `build` gets a path whose last part is `name` inside an empty folder, and writes a file or a folder
        there; what else it leaves in that folder is kept beside it. `key` is everything the product depends
        on (hashes of inputs, versions, options): another key is another product. The result appears at once
        or not at all, and of several processes one builds while the others wait. What `build` raises passes
        through.
        """
        digest = hashlib.sha256(f"{name}\0{key}".encode()).hexdigest()[:16]
        place = self._root / "derived" / digest
        if not (place / name).exists():
            with file_lock(self._lock(f"derived-{digest}"), on_wait=lambda: _waiting(name)):
                if not (place / name).exists():
                    self._build(name, place, build)
        return place / name

    def is_derived(self, name: str, *, key: str) -> bool:
        """Whether `derive` with these arguments would find its product cached."""
        digest = hashlib.sha256(f"{name}\0{key}".encode()).hexdigest()[:16]
        return (self._root / "derived" / digest / name).exists()

    def _fetch_one(self, name: str, entry: Artifact, scratch: Path) -> None:
        path = self._path(entry)
        with file_lock(self._lock(entry.sha256), on_wait=lambda: _waiting(name)):
            if not self._usable(path, entry):
                self._obtain(name, entry, path, scratch)

    def _build(self, name: str, place: Path, build: Callable[[Path], None]) -> None:
        with self._scratch() as folder:
            product = folder / "product"
            product.mkdir()
            build(product / name)
            if not (product / name).exists():
                raise FileNotFoundError(f"building {name} left no {name} behind")
            for file in product.rglob("*"):
                if file.is_file():
                    _flush(file)
            place.parent.mkdir(parents=True, exist_ok=True)
            product.rename(place)
            _flush(place.parent)

    def _scratch(self) -> AbstractContextManager[Path]:
        """A private folder on the cache's own file system: renames stay atomic."""
        return scratch_folder(self._root / "partial", lock=self._lock("partial"))

    def _path(self, entry: Artifact) -> Path:
        return self._root / "artifacts" / entry.sha256[:16] / entry.filename

    def _lock(self, name: str) -> Path:
        return self._root / "locks" / f"{name}.lock"

    def _usable(self, path: Path, entry: Artifact) -> bool:
        """Whether the file is right; hashes it if its stamp does not vouch for it, and removes it if it is
        wrong.
        """
        if _stamp_agrees(path, entry):
            return True
        if not path.exists():
            return False
        if path.stat().st_size == entry.size and _sha256(path) == entry.sha256:
            _write_stamp(path)
            return True
        _log.warning("%s in the cache is not what the manifest says; it is fetched again", path.name)
        path.unlink()
        _stamp(path).unlink(missing_ok=True)
        return False

    def _obtain(self, name: str, entry: Artifact, path: Path, scratch: Path) -> None:
        if self._offline:
            raise WeightsUnavailableError(
                name,
                f"not in the cache at {self._root} and POLYSIGHT_OFFLINE forbids fetching. "
                f"Run `polysight weights fetch {name}` where there is a network",
            )
        info = self.licence(name)
        if info.copyleft:
            _log.warning("%s is licensed %s: %s", name, info.licence, info.note)
        else:
            _log.info("fetching %s (%s)", name, info.licence)
        failures: list[SourceFailure] = []
        for spec in entry.sources:
            source = self._open_source(spec, scratch / "packages")
            arriving = scratch / entry.filename
            try:
                with self._show_progress(name, entry.size) as advance:
                    self._receive(source, entry, arriving, advance)
            except SourceError as error:
                failures.append(SourceFailure(source.label, str(error)))
                _log.warning("%s not from %s: %s", name, source.label, error)
                arriving.unlink(missing_ok=True)
                continue
            except OSError as error:
                raise WeightsUnavailableError(
                    name, f"cannot write to {self._root}: {error}", failures
                ) from error
            path.parent.mkdir(parents=True, exist_ok=True)
            arriving.replace(path)
            _flush(path.parent)
            _write_stamp(path)
            _log.info("%s from %s, SHA-256 verified", name, source.label)
            return
        raise WeightsUnavailableError(name, "no source could deliver it", failures)

    @staticmethod
    def _receive(source: Source, entry: Artifact, arriving: Path, advance: Advance) -> None:
        digest = hashlib.sha256()
        received = 0
        with arriving.open("wb") as file:
            for chunk in source.chunks():
                received += len(chunk)
                if received > entry.size:
                    raise SourceError(f"sends more than the {entry.size} bytes of this artifact")
                digest.update(chunk)
                file.write(chunk)
                advance(len(chunk))
            _flush_open(file)
        if received != entry.size:
            raise SourceError(f"sent {received} of {entry.size} bytes")
        if digest.hexdigest() != entry.sha256:
            raise SourceError(f"SHA-256 is {digest.hexdigest()[:16]}…, not {entry.sha256[:16]}…")


def default_root() -> Path:
    """`POLYSIGHT_CACHE`, or `~/.cache/polysight`."""
    configured = os.environ.get("POLYSIGHT_CACHE", "")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "polysight"


def _waiting(name: str) -> None:
    _log.info("another process is preparing %s; waiting for it", name)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _stamp(path: Path) -> Path:
    return path.with_name(path.name + ".verified")


def _write_stamp(path: Path) -> None:
    state = path.stat()
    stamp = _stamp(path)
    arriving = stamp.with_name(f"{stamp.name}.{os.getpid()}")
    arriving.write_text(json.dumps({"size": state.st_size, "mtime_ns": state.st_mtime_ns}), encoding="utf-8")
    arriving.replace(stamp)


def _stamp_agrees(path: Path, entry: Artifact) -> bool:
    try:
        state = path.stat()
        stamp = json.loads(_stamp(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(
        state.st_size == entry.size and stamp == {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
    )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_open(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
