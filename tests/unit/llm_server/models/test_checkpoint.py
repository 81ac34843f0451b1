"""Loading: exactly the model's tensors, whatever else is refused by name, and no more memory than the model takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_server.models.checkpoint import (
    INDEX,
    TensorSetError,
    build,
    expected_shapes,
    load,
    tensor_files,
)
from llm_server.models.checkpoint_dimensions import CheckpointError, checkpoint_dimensions
from llm_server.models.collavo import Collavo
from llm_server.models.dimensions import RELEASED, RELEASED_BYTES
from llm_server.models.precision import precision
from llm_server.models.prompt_batch import prompt_batch

POSITIONS = "vit.vision_tower.vision_model.embeddings.position_embedding.weight"


@pytest.fixture
def folder(golden_dir: Path, tmp_path: Path) -> Path:
    """A CoLLaVO checkpoint to spoil, in one file, without index."""
    source = golden_dir / "checkpoints" / "collavo-tiny"
    for name in ("config.json", "dims.json"):
        shutil.copyfile(source / name, tmp_path / name)
    tensors: dict[str, Tensor] = {}
    for shard in source.glob("*.safetensors"):
        tensors |= load_file(shard)
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    edit(tensors)
    path.unlink()
    save_file(tensors, path)


def logits(model: object) -> Tensor:
    assert isinstance(model, Collavo)
    batch = prompt_batch([[1, 7, 480, 9, 11]], image_id=480, image_tokens=25, pad_id=2)
    pixels = torch.linspace(-1, 1, 3 * 70 * 70).view(1, 3, 70, 70)
    grid = torch.arange(25)[None]
    with torch.inference_mode():
        crayon = model.crayon_features(grid, grid % 21)
        return model.last_logits(model.read(batch, model.image_features(pixels), crayon=crayon))


@pytest.mark.parametrize(("name", "tensors"), [("collavo-7b", 1268), ("moai-7b", 1197)])
def test_the_released_models_have_the_released_bytes(name: str, tensors: int) -> None:
    model = build(RELEASED[name])
    assert sum(2 * parameter.numel() for parameter in model.parameters()) == RELEASED_BYTES[name]
    shapes = expected_shapes(model)
    assert len(shapes) == tensors
    assert shapes["model.tok_embeddings.weight"] == (92545, 4096)
    assert shapes["output.weight"] == (92544, 4096)
    assert shapes[POSITIONS] == (1226, 1024)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", ["collavo-tiny", "moai-tiny"])
def test_the_key_grammar_is_that_of_the_checkpoints(golden_dir: Path, name: str) -> None:
    folder = golden_dir / "checkpoints" / name
    files = tensor_files(folder)
    shapes = {key: file.shape for key, file in files.items()}
    assert expected_shapes(build(checkpoint_dimensions(folder, shapes))) == shapes
    listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    assert sum(file.size for file in files.values()) == listed["metadata"]["total_size"]


def test_missing_unexpected_and_misshapen_tensors_are_named(folder: Path) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        del tensors["model.norm.weight"]
        tensors["model.norm.bias"] = torch.zeros(64)
        tensors["output.weight"] = tensors["output.weight"][:-1].contiguous()
        tensors[POSITIONS] = tensors[POSITIONS][:-1].contiguous()

    change(folder, spoil)
    with pytest.raises(TensorSetError) as caught:
        load(folder)
    assert caught.value.missing == ["model.norm.weight"]
    assert caught.value.unexpected == ["model.norm.bias"]
    assert [each.split(" ")[0] for each in caught.value.misshapen] == ["output.weight", POSITIONS]
    assert "[479, 64] instead of [480, 64]" in str(caught.value)


def test_a_smaller_position_table_is_stretched(folder: Path) -> None:
    def shrink(tensors: dict[str, Tensor]) -> None:
        tensors[POSITIONS] = tensors[POSITIONS][:10].contiguous()

    change(folder, shrink)
    model = load(folder)
    small = load_file(folder / "model.safetensors")[POSITIONS]
    table = model.get_parameter(POSITIONS)
    assert table.shape == (26, 48)
    assert torch.equal(table[0], small[0])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "config.json").write_text("{}"), "hidden_size"),
        (lambda folder: (folder / "dims.json").unlink(), "needs a dims.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08" + bytes(30)), "cannot be read"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "no safetensors files",
        ),
        (
            lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": "../model.safetensors"}}'),
            "outside",
        ),
        (
            lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": "model.safetensors"}}'),
            "does not agree",
        ),
        (lambda folder: (folder / INDEX).write_text('{"weight_map": []}'), "is not an index"),
        (
            lambda folder: shutil.copyfile(folder / "model.safetensors", folder / "model-again.safetensors"),
            "is in model-again.safetensors and in model.safetensors",
        ),
        (
            lambda folder: change(folder, lambda all_: all_.pop("seg_prompt_embed.weight")),
            "neither CoLLaVO's nor MoAI's",
        ),
        (
            lambda folder: change(
                folder, lambda all_: all_.update({"output.weight": torch.zeros(480, 64, dtype=torch.int8)})
            ),
            "not a floating-point type",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused(folder: Path, spoil: Callable[[Path], object], told: str) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=told):
        load(folder)


def test_impossible_dimensions_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 5}))
    with pytest.raises(CheckpointError, match="do not divide"):
        load(folder)
    scaled = config | {"rope_scaling": {"type": "linear", "factor": 2.0}}
    (folder / "config.json").write_text(json.dumps(scaled))
    with pytest.raises(CheckpointError, match="rope scaling"):
        load(folder)


def test_tensors_that_nothing_uses_can_be_left_out(folder: Path) -> None:
    whole, lean = load(folder), load(folder, keep_unused=False)
    assert torch.equal(logits(whole), logits(lean))
    gone = {name for name, _ in whole.named_parameters()} - {name for name, _ in lean.named_parameters()}
    assert len(gone) == 16
    assert all(".w2.Plora_seg_" in name for name in gone)


@pytest.mark.parametrize(("name", "near"), [("bf16", 0.15), ("fp16", 0.02), ("int8", 0.3), ("nf4", 3.0)])
def test_other_precisions_answer_nearly_the_same(folder: Path, name: str, near: float) -> None:
    exact = logits(load(folder))
    # Computing in float32 leaves the error of the weights alone.
    chosen = precision(name, torch.float32)
    apart = float((logits(load(folder, chosen)) - exact).abs().max())
    assert 0 < apart <= near < float(exact.abs().max())


_MEASURE = """
import gc
import sys
from pathlib import Path

from llm_server.models.checkpoint import load
from llm_server.models.footprint import resident_bytes
from llm_server.models.precision import precision


def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


for name in sys.argv[3:]:
    load(Path(sys.argv[1]), precision(name))  # whatever is allocated once
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    model = load(Path(sys.argv[2]), precision(name))
    print(resident("VmHWM") - before, resident_bytes(model))
    del model
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_loading_peaks_near_the_final_size(golden_dir: Path, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 24_000}))
    shapes = {key: file.shape for key, file in tensor_files(folder).items()}
    model = build(checkpoint_dimensions(folder, shapes))
    save_file(
        {key: torch.zeros(shape) for key, shape in expected_shapes(model).items()},
        folder / "model.safetensors",
    )
    small = golden_dir / "checkpoints" / "collavo-tiny"
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(small), str(folder), "fp32", "bf16"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line, least in zip(ran.stdout.splitlines(), (160e6, 80e6), strict=True):
        peak, final = map(int, line.split())
        assert final > least
        assert 0.9 * final <= peak <= 1.1 * final, (peak, final)
