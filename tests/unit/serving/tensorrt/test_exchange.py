"""Plans to another place and back, through transfers that are cut off and places that damage what they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from serving.engine.tensorrt import Built, LibraryAbsentError, PlanKey, StoreFullError, TensorRTError
from serving.engine.tensorrt.disk import Disk
from serving.engine.tensorrt.exchange import pull, push
from serving.engine.tensorrt.store import PLAN, SIDECAR, PlanStore

KeyFor = Callable[..., PlanKey]

pytest.importorskip("fsspec")


@pytest.fixture
def store(tmp_path: Path, key_for: KeyFor, built: Built) -> PlanStore:
    """Two plans."""
    filled = PlanStore(tmp_path / "here")
    for targets in (("sm86",), ("sm89",)):
        filled.obtain(key_for(targets=targets), lambda _: built)
    return filled


@pytest.fixture(params=["folder", "file", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "folder": str(tmp_path / "there" / "deep"),
        "file": f"file://{tmp_path}/there",
        "memory": f"memory://{uuid4().hex}/plans",
    }[request.param]


def digests(store: PlanStore) -> list[str]:
    return sorted(plan.digest for plan in store.list())


def test_plans_arrive_whole_and_are_moved_once(store: PlanStore, address: str, tmp_path: Path) -> None:
    other = PlanStore(tmp_path / "other")
    assert sorted(push(store, address).moved) == digests(store)
    assert sorted(pull(other, address).moved) == digests(store) == digests(other)
    assert [verdict.problem for verdict in other.verify()] == ["", ""]
    again = push(store, address), pull(other, address)
    for done in again:
        assert done.moved == []
        assert sorted(done.present) == digests(store)


def test_a_plan_without_its_sidecar_has_not_arrived(store: PlanStore, tmp_path: Path) -> None:
    there, other = tmp_path / "there", PlanStore(tmp_path / "other")
    push(store, str(there))
    cut_off, whole = digests(store)
    (there / cut_off / SIDECAR).unlink()
    assert pull(other, str(there)).moved == [whole]
    assert push(store, str(there)).moved == [cut_off]
    assert pull(other, str(there)).moved == [cut_off]


def test_a_transfer_that_breaks_off_leaves_no_sidecar(store: PlanStore, tmp_path: Path) -> None:
    there = tmp_path / "there"
    for digest in digests(store):
        (there / digest / f"{PLAN}.arriving").mkdir(
            parents=True
        )  # where the plan should go, something is in the way
    with pytest.raises(TensorRTError, match="cannot write to"):
        push(store, str(there))
    assert not list(there.rglob(SIDECAR))
    assert pull(PlanStore(tmp_path / "other"), str(there)).moved == []


def test_a_damaged_plan_is_refused_on_either_side(store: PlanStore, tmp_path: Path) -> None:
    there, other = tmp_path / "there", PlanStore(tmp_path / "other")
    push(store, str(there))
    bad, good = digests(store)
    (there / bad / PLAN).write_bytes(b"damaged")
    done = pull(other, str(there))
    assert done.moved == [good]
    assert "not the bytes that were built" in done.refused[bad]
    assert digests(other) == [good]
    assert list((tmp_path / "other" / "partial").iterdir()) == []

    (tmp_path / "here" / "plans" / good / PLAN).write_bytes(b"damaged")
    done = push(store, str(tmp_path / "elsewhere"))
    assert done.moved == [bad]
    assert "not the bytes that were built" in done.refused[good]


def test_a_plan_under_a_wrong_name_is_refused(store: PlanStore, tmp_path: Path) -> None:
    there = tmp_path / "there"
    push(store, str(there))
    first = digests(store)[0]
    (there / first).rename(there / ("f" * 64))
    assert "of another plan" in pull(PlanStore(tmp_path / "other"), str(there)).refused["f" * 64]


class NoRoom(Disk):
    def write(self, path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))


def test_a_full_disk_stops_the_transfer_and_leaves_nothing(store: PlanStore, tmp_path: Path) -> None:
    push(store, str(tmp_path / "there"))
    other = PlanStore(tmp_path / "other", disk=NoRoom())
    with pytest.raises(StoreFullError, match="nothing was left behind"):
        pull(other, str(tmp_path / "there"))
    assert other.list() == ()
    assert list((tmp_path / "other" / "partial").iterdir()) == []


def test_a_place_that_cannot_be_reached_is_an_error(store: PlanStore, tmp_path: Path) -> None:
    with pytest.raises(TensorRTError, match="cannot read"):
        pull(store, str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TensorRTError, match="cannot write to"):
        push(store, str(tmp_path / "file"))
    with pytest.raises(LibraryAbsentError):
        push(store, "nosuchprotocol://bucket/plans")
