"""A checkpoint is a pickle: it is verified, then inspected, and only then opened, in a process of its own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from serving.weights import Manifest, WeightStore, WeightsUnavailableError
from serving.weights.yolo_export import export, exported_onnx, is_exported, unexpected_globals

torch = pytest.importorskip("torch")


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """A checkpoint that leaves a file `ran` behind if anything loads it."""
    path = tmp_path / "poisoned.pt"
    torch.save({"model": Malicious(f"touch {tmp_path / 'ran'}"), "layer": torch.nn.SiLU()}, path)
    return path


def store_of(path: Path, root: Path) -> WeightStore:
    """A store whose only artifact is `path`, its hash right and its bytes already cached."""
    data = path.read_bytes()
    entry = {
        "filename": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "licence": "AGPL-3.0-only",
        "note": "",
        "sources": [{"kind": "url", "url": "http://127.0.0.1:9/"}],
    }
    store = WeightStore(root, manifest=Manifest.model_validate({"artifacts": {"net": entry}}), offline=True)
    cached = store.status("net").path
    cached.parent.mkdir(parents=True)
    cached.write_bytes(data)
    return store


def test_what_a_checkpoint_should_not_refer_to_is_found_without_loading_it(
    poisoned: Path, tmp_path: Path
) -> None:
    assert [name.split(".")[-1] for name in unexpected_globals(poisoned)] == ["system"]
    assert not (tmp_path / "ran").exists()


def test_functions_of_allowed_modules_are_not_allowed(tmp_path: Path) -> None:
    class Loader:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            from ultralytics.nn.tasks import load_checkpoint

            return load_checkpoint, ("other.pt",)

    pytest.importorskip("ultralytics")
    torch.save(Loader(), tmp_path / "indirect.pt")
    assert unexpected_globals(tmp_path / "indirect.pt") == ["ultralytics.nn.tasks.load_checkpoint"]


def test_a_poisoned_checkpoint_is_never_loaded(poisoned: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"poisoned\.pt refers to .*system; it is not loaded"):
        export(poisoned, tmp_path / "net.onnx")
    assert not (tmp_path / "ran").exists()


def test_a_failed_export_is_a_reason_and_leaves_nothing(poisoned: Path, tmp_path: Path) -> None:
    store = store_of(poisoned, tmp_path / "cache")
    with pytest.raises(WeightsUnavailableError, match=r"the export to ONNX failed: .*it is not loaded"):
        exported_onnx(store, "net")
    assert not is_exported(store, "net")
    assert not (tmp_path / "ran").exists()


def test_without_the_exporter_the_error_says_what_to_install(poisoned: Path, tmp_path: Path) -> None:
    store = store_of(poisoned, tmp_path / "cache")
    with pytest.raises(WeightsUnavailableError, match=r"polysight weights fetch.*polysight\[export\]"):
        exported_onnx(store, "net", exporter="no_such_exporter")


@pytest.mark.weights
@pytest.mark.parametrize("artifact", ["yolo26n", "yolo26n-seg"])
def test_the_published_checkpoints_refer_to_nothing_unexpected(artifact: str) -> None:
    store = WeightStore()
    assert unexpected_globals(store.verify(artifact)) == []
    graph = exported_onnx(store, artifact)
    assert graph.name == f"{artifact}.onnx"
    # Once exported, no exporter is needed any more.
    assert exported_onnx(store, artifact, exporter="no_such_exporter") == graph
