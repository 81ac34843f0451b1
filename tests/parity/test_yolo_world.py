"""YOLO-World with words built in: ultralytics' exporter against its own network, and its graph behind the service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from services.detection.backend import open_backend
from services.detection.settings import DetectionSettings
from services.detection.yolo_world import main
from serving.engine import OnnxRuntimeEngine
from serving.weights import WeightStore, WeightsUnavailableError

pytest.importorskip("torch")
pytest.importorskip("ultralytics")

Floats = NDArray[np.float32]
WORDS = "cat\ntraffic light\nwooden spoon\n"

# A process of its own: ultralytics writes settings where it is told, and keeps what it was told for good.
_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from services.detection.yolo_world import load_world, main

folder, names = Path(sys.argv[1]), ("cat", "traffic light", "wooden spoon")
torch.manual_seed(0)
embeddings = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
np.save(folder / "words.npy", embeddings)
load_world("random:yolov8s-worldv2", names, embeddings).save(folder / "world.pt")
pixels = torch.rand(8, 3, 64, 96)
network = load_world(str(folder / "world.pt"), names, embeddings).model.float().eval()
stored = {"pixels": pixels.numpy()}
with torch.no_grad():
    for batch in (1, 2, 5, 8):
        said = network(pixels[:batch])
        stored[f"said{batch}"] = (said[0] if isinstance(said, tuple) else said).numpy()
np.savez(folder / "said.npz", **stored)
arguments = [str(folder / name) for name in ("world.pt", "words.txt", "world.onnx")]
sys.exit(main([*arguments, "--embeddings", str(folder / "words.npy")]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    (path / "words.txt").write_text(WORDS)
    quiet = {"YOLO_CONFIG_DIR": str(path), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(path)], env=os.environ | quiet, check=True, timeout=300
    )
    return path


def alike(found: Floats, expected: Floats) -> None:
    """Boxes are in pixels of the input, the rest are probabilities."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=1e-3, rtol=1e-4)
    np.testing.assert_allclose(found[:, 4:], expected[:, 4:], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_the_graph_says_what_the_network_says(folder: Path, batch: int) -> None:
    stored = np.load(folder / "said.npz")
    engine = OnnxRuntimeEngine(folder / "world.onnx", threads=1)
    (answer,) = engine.run({"images": stored["pixels"][:batch]}).values()
    assert answer.shape[:2] == (batch, 4 + 3)
    alike(answer, stored[f"said{batch}"])
    engine.close()


@pytest.mark.slow
def test_a_picture_is_answered_alike_alone_and_in_company(folder: Path) -> None:
    pixels = np.load(folder / "said.npz")["pixels"]
    engine = OnnxRuntimeEngine(folder / "world.onnx", threads=1)
    (together,) = engine.run({"images": pixels}).values()
    for index in range(len(pixels)):
        (alone,) = engine.run({"images": pixels[index : index + 1]}).values()
        alike(alone, together[index : index + 1])
    engine.close()


@pytest.mark.slow
def test_it_serves_its_words_as_classes(folder: Path) -> None:
    graph, words = folder / "world.onnx", folder / "words.txt"
    settings = DetectionSettings(backend="yolo-world", model_path=graph, vocabulary_path=words, threads=1)
    backend = open_backend(settings, WeightStore(folder / "cache"))
    assert backend.model.labels == ("cat", "traffic light", "wooden spoon")
    description = backend.description.description
    assert (description.model.name, description.open_vocabulary) == ("world", False)
    assert description.weights[0].licence == "LicenseRef-unstated"
    backend.close()
    (other := folder / "two.txt").write_text("cat\ndog\n")
    with pytest.raises(ValueError, match="the graph has 3 classes, its labels are 2"):
        open_backend(
            DetectionSettings(backend="yolo-world", model_path=graph, vocabulary_path=other, threads=1),
            WeightStore(folder / "cache"),
        )


def test_what_is_no_checkpoint_is_refused_unopened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from services.detection.yolo_world import load_world

    torch.save({"model": subprocess.Popen}, tmp_path / "bad.pt")
    with pytest.raises(WeightsUnavailableError, match="Popen"):
        load_world(str(tmp_path / "bad.pt"), ("cat",), np.ones((1, 512), np.float32))
    with pytest.raises(WeightsUnavailableError, match="there is no checkpoint"):
        load_world(str(tmp_path / "none.pt"), ("cat",), None)
    with pytest.raises(ValueError, match="1 words"):
        load_world("random:yolov8s-worldv2", ("cat",), np.ones((2, 512), np.float32))
    (words := tmp_path / "words.txt").write_text("cat\n")
    assert main([str(tmp_path / "none.pt"), str(words), str(tmp_path / "out.onnx")]) == 1
    assert "no checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()
