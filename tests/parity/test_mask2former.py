"""The exported Mask2Former graph in ONNX Runtime against the network in PyTorch; tiny, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.panoptic.export import export_mask2former, main
from serving.engine import OnnxRuntimeEngine
from serving.weights import WeightsUnavailableError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TOLERANCE = 1e-4
SEED = 3


@pytest.fixture(scope="module")
def network() -> Any:
    from services.panoptic.mask2former.network import random_network, tiny_config

    return random_network(tiny_config(), seed=SEED)


@pytest.fixture(scope="module")
def folder(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as a hub would give it."""
    path = tmp_path_factory.mktemp("checkpoint")
    network.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def engine(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    export_mask2former(folder, out, input_size=(64, 64))
    assert list(out.parent.iterdir()) == [out]
    engine = OnnxRuntimeEngine(out, threads=1)
    yield engine
    engine.close()


def pictures(count: int) -> Any:
    return np.random.default_rng(count).normal(size=(count, 3, 64, 64)).astype(np.float32)


def said(network: Any, pixels: Any) -> tuple[Any, Any]:
    with torch.no_grad():
        classes, masks = network(torch.from_numpy(pixels))
    return classes.numpy(), masks.numpy()


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_the_graph_says_what_the_network_says(network: Any, engine: Any, batch: int) -> None:
    pixels = pictures(batch)
    classes, masks = said(network, pixels)
    answer = engine.run({"pixel_values": pixels})
    assert (classes.shape, masks.shape) == ((batch, 20, 134), (batch, 20, 16, 16))
    np.testing.assert_allclose(answer["class_queries_logits"], classes, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(answer["masks_queries_logits"], masks, atol=TOLERANCE, rtol=0)


def test_a_picture_is_answered_alike_alone_and_in_company(engine: Any) -> None:
    pixels = pictures(8)
    together = engine.run({"pixel_values": pixels})
    for index in range(8):
        alone = engine.run({"pixel_values": pixels[index : index + 1]})
        for name, answer in alone.items():
            np.testing.assert_allclose(answer[0], together[name][index], atol=TOLERANCE, rtol=0)


def test_random_weights_are_well_conditioned(network: Any) -> None:
    """Queries differ, pictures matter, and logits are of the size of a trained network's."""
    classes, masks = said(network, pictures(4))
    assert classes.std() > 1
    assert masks.std() > 1
    assert np.abs(classes[0] - classes[1]).max() > 0.01
    assert (classes.std(axis=1) > 0.1).mean() > 0.9
    assert len(np.unique(classes.argmax(axis=2))) > 5


def test_the_same_seed_draws_the_same_weights(network: Any) -> None:
    from services.panoptic.mask2former.network import random_network, tiny_config

    again, other = (random_network(tiny_config(), seed=seed) for seed in (SEED, SEED + 1))
    weights = [one.class_predictor.weight for one in (network, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WeightsUnavailableError, match="nothing-here"):
        export_mask2former(tmp_path / "nothing-here", tmp_path / "out.onnx")
    assert main(["mask2former", "random:huge", str(tmp_path / "out.onnx")]) == 1
    assert "tiny" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


def test_a_checkpoint_of_another_network_is_refused(folder: Path, network: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    state = {f"backbone.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsUnavailableError, match="no Mask2Former checkpoint"):
        export_mask2former(tmp_path, tmp_path / "out.onnx")
