"""EoMT: the exported graph in ONNX Runtime against the network in PyTorch, and its input against transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.panoptic.eomt.export import export_eomt, main
from services.panoptic.eomt.pixels import network_input, scaled_size
from serving.engine import OnnxRuntimeEngine
from serving.weights import WeightsUnavailableError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TOLERANCE = 1e-4
SEED = 3


def network(*, masked: bool = False) -> Any:
    from services.panoptic.eomt.network import random_network, tiny_config

    return random_network(tiny_config(), seed=SEED, masked=masked)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as a hub would give it, with what training leaves in one."""
    from safetensors.torch import load_file, save_file

    path = tmp_path_factory.mktemp("checkpoint")
    network().save_pretrained(path)
    state = load_file(path / "model.safetensors") | {"criterion.empty_weight": torch.ones(134)}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture(scope="module", params=["finished", "masked"])
def pair(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network and the engine of its graph."""
    from services.panoptic.eomt.network import Exported
    from services.panoptic.eomt.onnx_export import write_onnx

    out = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    origin = network(masked=request.param == "masked")
    if request.param == "masked":
        write_onnx(origin, out, opset=20)
    else:
        export_eomt(folder, out)
    assert list(out.parent.iterdir()) == [out]
    engine = OnnxRuntimeEngine(out, threads=1)
    yield Exported(origin).train(False), engine
    engine.close()


def pictures(count: int) -> Any:
    return np.random.default_rng(count).normal(size=(count, 3, 64, 64)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_the_graph_says_what_the_network_says(pair: Any, batch: int) -> None:
    origin, engine = pair
    pixels = pictures(batch)
    with torch.no_grad():
        classes, masks = (said.numpy() for said in origin(torch.from_numpy(pixels)))
    answer = engine.run({"pixel_values": pixels})
    assert (classes.shape, masks.shape) == ((batch, 20, 134), (batch, 20, 16, 16))
    assert classes.std() > 1
    assert masks.std() > 1
    np.testing.assert_allclose(answer["class_queries_logits"], classes, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(answer["masks_queries_logits"], masks, atol=TOLERANCE, rtol=0)


def test_a_picture_is_answered_alike_alone_and_in_company(pair: Any) -> None:
    _, engine = pair
    pixels = pictures(8)
    together = engine.run({"pixel_values": pixels})
    for index in range(8):
        alone = engine.run({"pixel_values": pixels[index : index + 1]})
        for name, answer in alone.items():
            np.testing.assert_allclose(answer[0], together[name][index], atol=TOLERANCE, rtol=0)


class NoLoss(torch.nn.Module):  # type: ignore[misc, name-defined]
    """In the place of the library's loss, which asks for scipy."""

    def __init__(self, config: Any, weight_dict: Any) -> None:
        super().__init__()
        self.num_labels, self.eos_coef = config.num_labels, config.no_object_weight
        self.register_buffer("empty_weight", torch.ones(config.num_labels + 1), persistent=False)


def test_the_segmenter_is_the_library_s_without_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.eomt import modeling_eomt

    monkeypatch.setattr(modeling_eomt, "EomtLoss", NoLoss)
    ours = network()
    theirs = modeling_eomt.EomtForUniversalSegmentation(ours.config).train(False)
    theirs.load_state_dict(ours.state_dict())  # strict: not a name more or less
    pixels = torch.from_numpy(pictures(2))
    with torch.no_grad():
        expected, found = theirs(pixel_values=pixels), ours(pixel_values=pixels)
    assert torch.equal(found.class_queries_logits, expected.class_queries_logits)
    assert torch.equal(found.masks_queries_logits, expected.masks_queries_logits)


@pytest.mark.parametrize(
    "size", [(48, 64), (64, 64), (480, 640), (31, 100), (333, 77), (640, 481), (1, 30), (64, 63)]
)
def test_the_input_is_that_of_transformers(size: tuple[int, int]) -> None:
    from transformers import EomtImageProcessor

    processor = EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = processor(images=picture, return_tensors="np", input_data_format="channels_last")[
        "pixel_values"
    ][0]
    found = network_input(picture, 64)
    assert found.shape == expected.shape == (3, 64, 64)
    # One grey level: PIL rounds after each of the two axes.
    assert np.abs(found - expected).max() <= 1.01 / 255 / 0.224
    assert np.abs(found - expected).mean() < 0.003


def test_sizes_are_those_of_transformers() -> None:
    from transformers.image_transforms import get_size_with_aspect_ratio

    rng = np.random.default_rng(1)
    for height, width in rng.integers(1, 3000, (3000, 2)).tolist():
        expected = get_size_with_aspect_ratio((height, width), 640, 640)
        if min(expected) >= 1 and max(expected) <= 640:
            assert scaled_size(height, width, 640) == expected, (height, width)
        assert all(1 <= side <= 640 for side in scaled_size(height, width, 640))


def test_what_is_no_finished_checkpoint_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    out = tmp_path / "out.onnx"
    with pytest.raises(WeightsUnavailableError, match="nothing-here"):
        export_eomt(tmp_path / "nothing-here", out)
    assert main(["random:huge", str(out)]) == 1
    assert "tiny" in capsys.readouterr().err
    state = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())

    def told(changed: dict[str, Any]) -> str:
        save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(WeightsUnavailableError) as refused:
            export_eomt(tmp_path, out)
        return str(refused.value)

    assert "masks queries at random" in told(state | {"attn_mask_probs": torch.tensor([0.0, 0.3])})
    assert "no EoMT checkpoint" in told({f"backbone.{name}": tensor for name, tensor in state.items()})
    assert not out.exists()
