"""Killed work leaves nothing for long, and nobody's work in progress is taken for debris."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from serving.weights import WeightStore
from serving.weights.scratch import scratch_folder

_STUCK = """
import sys, time
from pathlib import Path
from serving.weights import WeightStore

def build(path):
    path.write_text("half")
    print("half written", flush=True)
    time.sleep(600)

WeightStore(Path(sys.argv[1])).derive(sys.argv[2], key="a", build=build)
"""


def stuck_export(root: Path, name: str) -> subprocess.Popen[str]:
    """A process in the middle of an export."""
    command = [sys.executable, "-c", _STUCK, str(root), name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half written\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def half_written(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "partial").rglob("*.onnx"))


def test_the_next_export_clears_up_after_a_killed_one_and_lets_a_running_one_be(tmp_path: Path) -> None:
    killed, running = stuck_export(tmp_path, "killed.onnx"), stuck_export(tmp_path, "running.onnx")
    try:
        kill(killed)
        assert half_written(tmp_path) == ["killed.onnx", "running.onnx"]
        store = WeightStore(tmp_path)
        assert store.derive("new.onnx", key="a", build=_write).read_text() == "whole"
        assert half_written(tmp_path) == ["running.onnx"]
        # The killed one's own work is done again, at once: its lock died with it.
        assert store.derive("killed.onnx", key="a", build=_write).read_text() == "whole"
    finally:
        kill(killed)
        kill(running)
    with scratch_folder(tmp_path / "partial", lock=tmp_path / "locks" / "partial.lock") as folder:
        assert list((tmp_path / "partial").iterdir()) == [folder]
    assert list((tmp_path / "partial").iterdir()) == []


def test_folders_of_several_at_once_stay(tmp_path: Path) -> None:
    parent, lock = tmp_path / "partial", tmp_path / "partial.lock"
    with scratch_folder(parent, lock=lock) as first, scratch_folder(parent, lock=lock) as second:
        assert first.is_dir()
        assert first != second
    assert list(parent.iterdir()) == []


def test_a_file_that_somebody_put_there_is_nobodys_folder(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "note.txt").write_text("mine")
    with scratch_folder(tmp_path / "partial", lock=tmp_path / "lock") as folder:
        assert folder.is_dir()
    assert (tmp_path / "partial" / "note.txt").read_text() == "mine"


def _write(path: Path) -> None:
    path.write_text("whole")
