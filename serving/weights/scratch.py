"""Folders for work in progress, and the removal of what killed processes left in theirs.

Who works in such a folder holds a lock inside it, and the kernel frees the lock of a process that dies: a folder that
nobody holds is debris. To sweep and to make a folder exclude each other, so that none is seen between being made and
being locked.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from serving.weights.locks import file_lock, try_file_lock

_log = logging.getLogger(__name__)

_IN_USE = "in-use.lock"


@contextmanager
def scratch_folder(parent: Path, *, lock: Path) -> Iterator[Path]:
    """A private folder under `parent`, gone afterwards; debris under `parent` goes before it is made.

    `lock`: the file whose lock excludes other sweepers and makers of `parent`; held only while one is at it.
    """
    with ExitStack() as held:
        with file_lock(lock):
            parent.mkdir(parents=True, exist_ok=True)
            for leftover in [entry for entry in parent.iterdir() if entry.is_dir()]:
                _remove_debris(leftover)
            folder = Path(tempfile.mkdtemp(dir=parent))
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            held.enter_context(file_lock(folder / _IN_USE))
        yield folder


def _remove_debris(folder: Path) -> None:
    """Remove a folder unless its maker is alive, or another user's."""
    try:
        with try_file_lock(folder / _IN_USE) as held:
            if held:
                _log.info("removing %s, left behind by a process that was killed", folder)
                shutil.rmtree(folder, ignore_errors=True)
    except PermissionError as error:
        _log.warning("%s is left alone: %s", folder, error)
