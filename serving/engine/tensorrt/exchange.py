"""Plans between a store and a folder elsewhere: a directory, or any address that fsspec reads and writes (`s3://…`).

A plan is complete there once its `plan.json` is, which is written last: a transfer that was cut off leaves a plan
that nobody takes, and the next transfer carries on with it. What has arrived is not sent again.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serving.engine.tensorrt.errors import LibraryAbsentError, PlanCorruptError, TensorRTError
from serving.engine.tensorrt.store import LOG, PLAN, SIDECAR, PlanStore

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass
class Exchanged:
    """Digests of plans that were moved, that were there already, and that were refused with the reason."""

    moved: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def push(store: PlanStore, address: str) -> Exchanged:
    """Copy every sound plan of the store to `address`.

    Raises LibraryAbsentError without fsspec (or its driver for this kind of address), TensorRTError when the other
    side cannot be written.
    """
    filesystem, root = _open(address)
    done = Exchanged()
    for plan in store.list():
        folder = f"{root}/{plan.digest}"
        try:
            if filesystem.exists(f"{folder}/{SIDECAR}"):
                done.present.append(plan.digest)
                continue
            files = store.files(plan)
        except TensorRTError as error:
            done.refused[plan.digest] = str(error)
            continue
        try:
            filesystem.makedirs(folder, exist_ok=True)
            for name in (PLAN, LOG, SIDECAR):
                _put(filesystem, f"{folder}/{name}", files[name])
        except OSError as error:
            raise TensorRTError(f"cannot write to {address}: {error}") from error
        done.moved.append(plan.digest)
    return done


def pull(store: PlanStore, address: str) -> Exchanged:
    """Take every plan at `address` that the store does not have. A damaged one is refused, and named.

    Raises as `push`, and StoreFullError.
    """
    filesystem, root = _open(address)
    have = {plan.digest for plan in store.list()}
    done = Exchanged()
    try:
        names = [str(path).rstrip("/").rsplit("/", 1)[-1] for path in filesystem.ls(root, detail=False)]
    except OSError as error:
        raise TensorRTError(f"cannot read {address}: {error}") from error
    for digest in sorted(filter(_DIGEST.fullmatch, names)):
        folder = f"{root}/{digest}"
        if digest in have:
            done.present.append(digest)
        elif filesystem.exists(f"{folder}/{SIDECAR}"):
            try:
                files = {name: filesystem.cat_file(f"{folder}/{name}") for name in (PLAN, LOG, SIDECAR)}
            except OSError as error:
                done.refused[digest] = str(error)
                continue
            try:
                store.accept(digest, files)
            except PlanCorruptError as error:
                done.refused[digest] = str(error)
            else:
                done.moved.append(digest)
    return done


def _put(filesystem: AbstractFileSystem, path: str, data: bytes) -> None:
    # Object stores show a file when it is complete; folders do not, so there it gets its name at the end.
    arriving = f"{path}.arriving"
    filesystem.pipe_file(arriving, data)
    filesystem.mv(arriving, path)


def _open(address: str) -> tuple[AbstractFileSystem, str]:
    if importlib.util.find_spec("fsspec") is None:
        raise LibraryAbsentError("moving plans needs fsspec: pip install 'polysight[engines]'")
    import fsspec

    try:
        opened: tuple[Any, str] = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise LibraryAbsentError(f"{address}: {error}") from error
    filesystem, root = opened
    return filesystem, root.rstrip("/")
