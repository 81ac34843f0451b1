"""A plan store after everything that can happen to it: killed builds, full disks, damaged files, two builders."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serving.engine.tensorrt import (
    Built,
    PlanAbsentError,
    PlanCorruptError,
    PlanKey,
    PlanMismatchError,
    StoreFullError,
    TensorRTError,
)
from serving.engine.tensorrt.disk import Disk
from serving.engine.tensorrt.store import LOG, PLAN, SIDECAR, PlanStore

KeyFor = Callable[..., PlanKey]


class FullDisk(Disk):
    """A disk with this much room: the write that runs over it stops half-way, as on a real one."""

    def __init__(self, room: int, number: int = errno.ENOSPC) -> None:
        self.room = room
        self._number = number

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data[: self.room])
        if len(data) > self.room:
            raise OSError(self._number, os.strerror(self._number), str(path))
        self.room -= len(data)


def files_under(root: Path) -> list[str]:
    """Every file but the lock files, which stay on purpose."""
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def is_clean(store: PlanStore) -> bool:
    return not list((store.root / "partial").glob("*"))


def test_a_plan_is_built_once_and_read_back(tmp_path: Path, key_for: KeyFor, built: Built) -> None:
    store = PlanStore(tmp_path)
    builds: list[bytes] = []

    def build(timing_cache: bytes) -> Built:
        builds.append(timing_cache)
        return built

    first, second = store.obtain(key_for(), build), store.obtain(key_for(), build)
    assert builds == [b""]
    assert first == second == store.find(key_for())
    assert second.read() == built.plan
    assert second.sidecar.build_seconds == 0.5
    assert [tensor.spec for tensor in second.sidecar.inputs] == list(built.inputs)
    assert (second.path.parent / LOG).read_text() == built.log
    assert is_clean(store)


@pytest.mark.parametrize(
    "other",
    [
        {"graph": "other"},
        {"onnx_sha256": "b" * 64},
        {"precision": "fp16"},
        {"recipe": "cast"},
        {"library": "tensorrt"},
        {"library_version": "1.8"},
        {"targets": ("sm89",)},
        {"profiles": ()},
    ],
)
def test_whatever_decides_a_plan_is_in_its_address(key_for: KeyFor, other: dict[str, object]) -> None:
    assert key_for(**other).digest != key_for().digest


def test_what_a_builder_raises_passes_through_and_leaves_nothing(tmp_path: Path, key_for: KeyFor) -> None:
    def build(_: bytes) -> Built:
        raise RuntimeError("the builder broke")

    store = PlanStore(tmp_path)
    with pytest.raises(RuntimeError, match="the builder broke"):
        store.obtain(key_for(), build)
    assert files_under(tmp_path) == []
    with pytest.raises(
        PlanAbsentError, match="polysight engines build tiny --targets sm86 --precisions fp32"
    ):
        store.find(key_for())


@pytest.mark.parametrize("room", [0, 1, 5_000, 9_999, 10_000, 10_005, 10_200])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_clear_error_and_a_clean_store(
    tmp_path: Path, key_for: KeyFor, built: Built, room: int, number: int
) -> None:
    store = PlanStore(tmp_path, disk=FullDisk(room, number))
    with pytest.raises(StoreFullError, match=r"no room for a plan of 10000 bytes .* nothing was left behind"):
        store.obtain(key_for(), lambda _: built)
    assert files_under(tmp_path) == []
    assert is_clean(store)
    assert PlanStore(tmp_path).obtain(key_for(), lambda _: built).read() == built.plan


def test_a_disk_that_fails_otherwise_says_how(tmp_path: Path, key_for: KeyFor, built: Built) -> None:
    store = PlanStore(tmp_path, disk=FullDisk(0, errno.EIO))
    with pytest.raises(TensorRTError, match="Input/output error"):
        store.obtain(key_for(), lambda _: built)
    assert files_under(tmp_path) == []


def test_a_full_disk_does_not_cost_the_plan_that_is_there(
    tmp_path: Path, key_for: KeyFor, built: Built
) -> None:
    PlanStore(tmp_path).obtain(key_for(), lambda _: built)
    with pytest.raises(StoreFullError):
        PlanStore(tmp_path, disk=FullDisk(100)).obtain(key_for(targets=("sm89",)), lambda _: built)
    assert PlanStore(tmp_path).find(key_for()).read() == built.plan


def test_no_room_for_the_timing_cache_costs_nothing_but_the_cache(
    tmp_path: Path, key_for: KeyFor, built: Built
) -> None:
    store = PlanStore(tmp_path, disk=FullDisk(20_000))
    plan = store.obtain(key_for(), lambda _: replace(built, timing_cache=bytes(50_000)))
    assert plan.read() == built.plan
    assert not any(name.startswith("timing") for name in files_under(tmp_path))


def test_the_next_build_gets_the_timing_cache_of_the_last(
    tmp_path: Path, key_for: KeyFor, built: Built
) -> None:
    store = PlanStore(tmp_path)
    given: list[bytes] = []

    def build(timing_cache: bytes) -> Built:
        given.append(timing_cache)
        return replace(built, timing_cache=b"measured")

    store.obtain(key_for(), build)
    store.obtain(key_for(precision="fp16"), build)
    store.obtain(key_for(targets=("sm89",)), build)
    assert given == [b"", b"measured", b""]


def damage_bit(folder: Path) -> None:
    plan = bytearray((folder / PLAN).read_bytes())
    plan[5000] ^= 1
    (folder / PLAN).write_bytes(plan)


def damage_truncate(folder: Path) -> None:
    (folder / PLAN).write_bytes((folder / PLAN).read_bytes()[:-1])


def damage_plan_gone(folder: Path) -> None:
    (folder / PLAN).unlink()


def damage_sidecar_gone(folder: Path) -> None:
    (folder / SIDECAR).unlink()


def damage_sidecar_torn(folder: Path) -> None:
    (folder / SIDECAR).write_bytes((folder / SIDECAR).read_bytes()[:40])


def damage_sidecar_of_another(folder: Path) -> None:
    told = json.loads((folder / SIDECAR).read_text())
    told["key"]["targets"] = ["sm120"]
    (folder / SIDECAR).write_text(json.dumps(told))


DAMAGES = [
    damage_bit,
    damage_truncate,
    damage_plan_gone,
    damage_sidecar_gone,
    damage_sidecar_torn,
    damage_sidecar_of_another,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plan_is_found_removed_and_built_again(
    tmp_path: Path, key_for: KeyFor, built: Built, damage: Callable[[Path], None]
) -> None:
    store = PlanStore(tmp_path)
    sound = store.obtain(key_for(targets=("sm89",)), lambda _: built)
    folder = store.obtain(key_for(), lambda _: built).path.parent
    damage(folder)
    with pytest.raises(PlanCorruptError):
        store.find(key_for())
    assert not folder.exists()
    with pytest.raises(PlanAbsentError):
        store.find(key_for())
    assert store.obtain(key_for(), lambda _: built).read() == built.plan
    assert store.find(key_for(targets=("sm89",))) == sound


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_names_the_damaged_and_keeps_the_sound(
    tmp_path: Path, key_for: KeyFor, built: Built, damage: Callable[[Path], None]
) -> None:
    store = PlanStore(tmp_path)
    bad = store.obtain(key_for(), lambda _: built)
    good = store.obtain(key_for(targets=("sm89",)), lambda _: built)
    damage(bad.path.parent)
    problems = {verdict.digest: verdict.problem for verdict in store.verify()}
    assert problems[bad.digest]
    assert problems[good.digest] == ""
    assert [verdict.problem for verdict in store.verify()] == [""]


def test_a_damaged_plan_is_rebuilt_without_asking(tmp_path: Path, key_for: KeyFor, built: Built) -> None:
    store = PlanStore(tmp_path)
    damage_bit(store.obtain(key_for(), lambda _: built).path.parent)
    assert store.obtain(key_for(), lambda _: built).read() == built.plan


HERE = {"onnx_sha256": "a" * 64, "library": "tensorrt_rtx", "version": "1.7", "target": "sm86"}


def test_the_plan_for_this_gpu_is_selected_among_others(
    tmp_path: Path, key_for: KeyFor, built: Built
) -> None:
    store = PlanStore(tmp_path)
    for targets in [("sm80",), ("sm86", "sm89"), ("sm120",)]:
        store.obtain(key_for(targets=targets), lambda _: built)
    store.obtain(key_for(precision="fp16"), lambda _: built)
    assert store.select("tiny", "fp32", **HERE).sidecar.key.targets == ("sm86", "sm89")


def test_of_plans_that_differ_in_their_calibration_the_last_one_is_selected(
    tmp_path: Path, key_for: KeyFor, built: Built
) -> None:
    store = PlanStore(tmp_path)
    for age, recipe in enumerate(["third", "second", "first"]):
        plan = store.obtain(key_for(precision="int8", recipe=recipe), lambda _: built)
        os.utime(plan.path, (1e9 - age, 1e9 - age))
    assert store.select("tiny", "int8", **HERE).sidecar.key.recipe == "third"
    with pytest.raises(
        PlanAbsentError, match=r"--precisions fp8 --library tensorrt_rtx --calibration PICTURES$"
    ):
        store.select("tiny", "fp8", **HERE)
    with pytest.raises(PlanAbsentError, match=r"--calibration PICTURES --prepare PREPARATION$"):
        store.select("tiny", "fp8", **HERE, file="/graphs/tiny.onnx")


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"targets": ("sm89",)}, "for sm89, and this GPU is sm86"),
        ({"library_version": "1.6"}, r"by tensorrt_rtx 1.6, and here is tensorrt_rtx 1.7"),
        ({"library": "tensorrt"}, "by tensorrt 1.7, and here is tensorrt_rtx 1.7"),
        ({"onnx_sha256": "b" * 64}, "from graph bbbbbbbbbbbb, and here is aaaaaaaaaaaa"),
    ],
)
def test_a_plan_that_does_not_belong_here_is_refused_with_the_command_that_builds_the_right_one(
    tmp_path: Path, key_for: KeyFor, built: Built, parts: dict[str, object], why: str
) -> None:
    store = PlanStore(tmp_path)
    kept = store.obtain(key_for(**parts), lambda _: built)
    with pytest.raises(PlanMismatchError, match=why) as refused:
        store.select("tiny", "fp32", **HERE)
    command = refused.value.command
    assert command.startswith(
        "polysight engines build tiny --targets sm86 --precisions fp32 --library tensorrt"
    )
    assert command in str(refused.value)
    assert [verdict.problem for verdict in store.verify()] == [""]  # a plan for another place is no damage
    assert kept.read() == built.plan


def test_without_a_plan_the_command_that_builds_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanAbsentError) as absent:
        PlanStore(tmp_path).select("tiny", "fp16", **HERE)
    assert absent.value.command == (
        "polysight engines build tiny --targets sm86 --precisions fp16 --library tensorrt_rtx"
    )


_KILLED = """
import sys, time
from pathlib import Path
from serving.engine.tensorrt import Built, PlanKey
from serving.engine.tensorrt.disk import Disk
from serving.engine.tensorrt.store import PlanStore

class SlowDisk(Disk):
    def write(self, path, data):
        with path.open("xb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            print("half written", flush=True)
            time.sleep(600)

key = PlanKey.model_validate_json(sys.argv[2])
built = Built(b"x" * 10_000, (), (), "", 0.1, b"")
PlanStore(Path(sys.argv[1]), disk=SlowDisk()).obtain(key, lambda _: built)
"""


def test_a_build_killed_half_way_leaves_a_store_that_works(
    tmp_path: Path, key_for: KeyFor, built: Built
) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path), key_for().model_dump_json()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "half written\n"
        store = PlanStore(tmp_path)
        assert store.sweep() == ()  # a build in progress is nobody's debris
        assert files_under(tmp_path) == [f"partial/{key_for().digest}/{PLAN}"]
        assert store.list() == ()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close() if process.stdout else None
    assert not is_clean(store)
    assert store.obtain(key_for(), lambda _: built).read() == built.plan
    assert is_clean(store)
    assert [verdict.problem for verdict in store.verify()] == [""]


def test_what_a_killed_build_left_is_swept_by_the_build_of_anything(
    tmp_path: Path, key_for: KeyFor, built: Built
) -> None:
    debris = tmp_path / "partial" / key_for(graph="dead").digest
    debris.mkdir(parents=True)
    (debris / PLAN).write_bytes(b"half")
    store = PlanStore(tmp_path)
    store.obtain(key_for(), lambda _: built)
    assert is_clean(store)


def test_of_two_builders_one_builds(tmp_path: Path, key_for: KeyFor, built: Built) -> None:
    builds: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: bytes) -> Built:
        builds.append("slow")
        begun.set()
        assert go_on.wait(10)
        return built

    def second(_: bytes) -> Built:
        builds.append("second")
        return built

    plans: list[bytes] = []
    store = PlanStore(tmp_path)
    first = threading.Thread(target=lambda: plans.append(store.obtain(key_for(), slow).read()))
    first.start()
    assert begun.wait(10)
    other = threading.Thread(
        target=lambda: plans.append(PlanStore(tmp_path).obtain(key_for(), second).read())
    )
    other.start()
    go_on.set()
    first.join(10)
    other.join(10)
    assert builds == ["slow"]
    assert plans == [built.plan, built.plan]
