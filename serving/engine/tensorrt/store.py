"""Plans by what they were built from: built once, verified on every use, never half there.

Layout under the root::

    plans/<SHA-256 of the key>/plan.trt  plan.json  build.log
    timing/<library>-<version>-<target>.cache      what builds on a GPU remember of measured kernels
    partial/<SHA-256 of the key>/                  a build in progress, or what a killed one left
    locks/

A plan is written under `partial/`, flushed, and renamed to its place as a whole folder. The folder under `partial/`
belongs to whoever holds the lock of its key, and the kernel frees the lock of a process that dies: what lies there
unlocked is debris, and is removed.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from serving.engine.tensorrt.builder import Built
from serving.engine.tensorrt.disk import Disk
from serving.engine.tensorrt.errors import PlanAbsentError, PlanCorruptError, StoreFullError, TensorRTError
from serving.engine.tensorrt.plan import PlanKey, PlanSidecar, TensorInfo, build_command, check_plan
from serving.weights.locks import file_lock, try_file_lock

PLAN, SIDECAR, LOG = "plan.trt", "plan.json", "build.log"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredPlan:
    """A plan in the store: where it is, and what its sidecar says."""

    path: Path
    sidecar: PlanSidecar

    @property
    def digest(self) -> str:
        """Its address in the store."""
        return self.sidecar.key.digest

    @property
    def built_at(self) -> float:
        """When it came into the store, seconds since the epoch; 0 where it has just been removed."""
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0

    def read(self) -> bytes:
        """The plan, held against its digest. Raises PlanCorruptError."""
        try:
            plan = self.path.read_bytes()
        except OSError as error:
            raise PlanCorruptError(f"{self._name}: cannot be read: {error}", self.sidecar.command) from error
        if hashlib.sha256(plan).hexdigest() != self.sidecar.plan_sha256:
            raise PlanCorruptError(f"{self._name}: not the bytes that were built", self.sidecar.command)
        return plan

    @property
    def _name(self) -> str:
        return f"plan of {self.sidecar.key.graph} for {', '.join(self.sidecar.key.targets)}"


@dataclass(frozen=True)
class Verdict:
    """What `verify` found of one folder; `problem` is empty for a sound plan."""

    digest: str
    problem: str


class PlanStore:
    """Plans under one folder, shared by any number of processes of one machine."""

    def __init__(self, root: Path, *, disk: Disk | None = None) -> None:
        self._root = root
        self._disk = disk if disk is not None else Disk()

    @property
    def root(self) -> Path:
        """The folder; it need not exist yet."""
        return self._root

    def obtain(self, key: PlanKey, build: Callable[[bytes], Built], *, file: str = "") -> StoredPlan:
        """The plan of `key`, built now if it is not there or not sound.

        `file` is kept in the sidecar for the commands of later refusals: the path of a graph of one's own.

        `build` gets the timing cache of earlier builds (empty where there is none). Of several processes one builds
        and the others wait for it. What `build` raises passes through, and leaves nothing behind.

        Raises StoreFullError when the disk has no room.
        """
        self.sweep()
        with file_lock(self._lock(key.digest), on_wait=lambda: _waiting(key)):
            try:
                return self._sound(key.digest)
            except PlanAbsentError:
                pass
            except PlanCorruptError as error:
                _log.warning("%s", error)
            timing = self._timing(key)
            built = build(timing.read_bytes() if timing.exists() else b"")
            stored = self._write(key, built, file)
            if built.timing_cache:
                self._keep_timing(timing, built.timing_cache)
            return stored

    def find(self, key: PlanKey) -> StoredPlan:
        """The plan of `key`, its bytes verified.

        Raises PlanAbsentError, or PlanCorruptError after removing what was there.
        """
        with file_lock(self._lock(key.digest)):
            try:
                return self._sound(key.digest)
            except PlanAbsentError:
                raise PlanAbsentError(
                    f"no plan of {key.graph} in {self._root}",
                    build_command(key.graph, key.targets, key.precision, key.library, stripped=key.stripped),
                ) from None

    def select(
        self,
        graph: str,
        precision: str,
        *,
        onnx_sha256: str,
        library: str,
        version: str,
        target: str,
        file: str | Path = "",
    ) -> StoredPlan:
        """The plan that may run here: of this graph and precision, for this GPU, by this library. Bytes verified.

        A whole plan is taken before one without weights, which has to be refitted first, and the last one built before
        others: plans of eight bits may differ in their calibration alone. `file` is the graph's ONNX
        file where it is not one of the project's own, for the command in a refusal.

        Raises PlanAbsentError where the store has none of the graph, PlanMismatchError saying what those it has were
        built for, PlanCorruptError after removing a damaged one.
        """
        candidates = sorted(
            (
                plan
                for plan in self.list()
                if plan.sidecar.key.graph == graph and plan.sidecar.key.precision == precision
            ),
            key=lambda plan: (plan.sidecar.key.stripped, -plan.built_at),
        )
        if not candidates:
            raise PlanAbsentError(
                f"no {precision} plan of {graph} in {self._root}",
                build_command(graph, (target,), precision, library, file=file),
            )
        refusal: TensorRTError | None = None
        for plan in candidates:
            try:
                check_plan(
                    plan.sidecar,
                    onnx_sha256=onnx_sha256,
                    library=library,
                    version=version,
                    target=target,
                    file=file,
                )
            except TensorRTError as error:
                # The whole plan's, where there is one: that is what to build.
                refusal = refusal or error
            else:
                return self.find(plan.sidecar.key)
        assert refusal is not None  # every candidate either returned or was refused
        raise refusal

    def list(self) -> tuple[StoredPlan, ...]:
        """Every plan with a readable sidecar; bytes are not verified."""
        found = []
        for digest in self._digests():
            try:
                found.append(self._described(digest))
            except (PlanAbsentError, PlanCorruptError) as error:
                _log.warning("%s", error)
        return tuple(found)

    def verify(self) -> tuple[Verdict, ...]:
        """Hash every plan; damaged ones are removed. Also removes what killed builds left."""
        self.sweep()
        verdicts = []
        for digest in self._digests():
            with file_lock(self._lock(digest)):
                try:
                    self._sound(digest)
                except PlanCorruptError as error:
                    verdicts.append(Verdict(digest, str(error)))
                except PlanAbsentError:
                    continue  # another process removed it meanwhile
                else:
                    verdicts.append(Verdict(digest, ""))
        return tuple(verdicts)

    def accept(self, digest: str, files: dict[str, bytes]) -> StoredPlan:
        """Take in a plan built elsewhere: the three files of its folder by name.

        Raises PlanCorruptError when they are not what `digest` and the sidecar say, StoreFullError without room.
        """
        with file_lock(self._lock(digest)):
            arriving = self._root / "partial" / digest
            try:
                self._fresh(arriving)
                for name in (PLAN, LOG, SIDECAR):
                    self._disk.write(arriving / name, files[name])
                plan = _read(arriving, digest)
                plan.read()
                self._replace(digest, arriving)
            except OSError as error:
                raise self._no_room(error, len(files[PLAN])) from error
            finally:
                shutil.rmtree(arriving, ignore_errors=True)
            return self._described(digest)

    def files(self, plan: StoredPlan) -> dict[str, bytes]:
        """The three files of a plan's folder by name, the plan verified. Raises PlanCorruptError."""
        folder = plan.path.parent
        return {
            PLAN: plan.read(),
            LOG: (folder / LOG).read_bytes(),
            SIDECAR: (folder / SIDECAR).read_bytes(),
        }

    def sweep(self) -> tuple[str, ...]:
        """Remove what killed builds left; gives the digests. Builds in progress are left alone."""
        removed = []
        for leftover in _folders(self._root / "partial"):
            with try_file_lock(self._lock(leftover.name)) as held:
                if held:
                    shutil.rmtree(leftover, ignore_errors=True)
                    removed.append(leftover.name)
        return tuple(removed)

    def _sound(self, digest: str) -> StoredPlan:
        """The plan at `digest`, verified; a damaged one is removed. The caller holds the lock."""
        try:
            plan = self._described(digest)
            plan.read()
        except PlanCorruptError:
            shutil.rmtree(self._root / "plans" / digest, ignore_errors=True)
            raise
        return plan

    def _described(self, digest: str) -> StoredPlan:
        return _read(self._root / "plans" / digest, digest)

    def _write(self, key: PlanKey, built: Built, file: str) -> StoredPlan:
        log = built.log.encode()
        sidecar = PlanSidecar(
            key=key,
            inputs=tuple(map(TensorInfo.of, built.inputs)),
            outputs=tuple(map(TensorInfo.of, built.outputs)),
            plan_sha256=hashlib.sha256(built.plan).hexdigest(),
            plan_bytes=len(built.plan),
            log_sha256=hashlib.sha256(log).hexdigest(),
            build_seconds=built.seconds,
            file=file,
        )
        arriving = self._root / "partial" / key.digest
        try:
            self._fresh(arriving)
            self._disk.write(arriving / PLAN, built.plan)
            self._disk.write(arriving / LOG, log)
            self._disk.write(arriving / SIDECAR, sidecar.model_dump_json(indent=2).encode())
            self._replace(key.digest, arriving)
        except OSError as error:
            raise self._no_room(error, len(built.plan)) from error
        finally:
            shutil.rmtree(arriving, ignore_errors=True)
        return self._described(key.digest)

    def _replace(self, digest: str, arriving: Path) -> None:
        place = self._root / "plans" / digest
        if place.exists():
            shutil.rmtree(place)
        self._disk.publish(arriving, place)

    @staticmethod
    def _fresh(partial: Path) -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    def _keep_timing(self, place: Path, cache: bytes) -> None:
        arriving = place.with_name(f"{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            arriving.unlink(missing_ok=True)
            self._disk.write(arriving, cache)
            arriving.replace(place)
        except OSError as error:
            # The plan is safe; the next build only measures again.
            _log.warning("the timing cache could not be kept: %s", error)
            arriving.unlink(missing_ok=True)

    def _no_room(self, error: OSError, wanted: int) -> TensorRTError:
        if error.errno in _NO_ROOM:
            return StoreFullError(
                f"no room for a plan of {wanted} bytes in {self._root}: {error.strerror}; nothing was left behind"
            )
        return TensorRTError(f"cannot write to {self._root}: {error}")

    def _digests(self) -> Iterable[str]:
        return [folder.name for folder in _folders(self._root / "plans")]

    def _timing(self, key: PlanKey) -> Path:
        return self._root / "timing" / f"{key.library}-{key.library_version}-{'-'.join(key.targets)}.cache"

    def _lock(self, digest: str) -> Path:
        return self._root / "locks" / f"{digest}.lock"


def _read(folder: Path, digest: str) -> StoredPlan:
    if not folder.is_dir():
        raise PlanAbsentError(f"no plan {digest[:12]}", "polysight engines build")
    try:
        sidecar = PlanSidecar.model_validate_json((folder / SIDECAR).read_bytes())
    except (OSError, ValidationError) as error:
        raise PlanCorruptError(f"plan {digest[:12]}: its {SIDECAR} cannot be read: {error}") from error
    if sidecar.key.digest != digest:
        raise PlanCorruptError(f"plan {digest[:12]}: its {SIDECAR} is of another plan", sidecar.command)
    return StoredPlan(folder / PLAN, sidecar)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _waiting(key: PlanKey) -> None:
    _log.info("another process is building %s; waiting for it", key.graph)
