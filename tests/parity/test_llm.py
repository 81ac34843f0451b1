"""CoLLaVO and MoAI against golden vectors of the published code: all of them are met, and spoilt ones are found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from cli.golden.llm.compare import compare_model
from cli.golden.llm.tolerance import tolerance
from cli.parity import app

MODELS = ("collavo-tiny", "moai-tiny")


@pytest.fixture
def set_copy(golden_dir: Path, tmp_path: Path) -> Path:
    """A golden set to spoil."""
    for part in ("vectors", "checkpoints"):
        shutil.copytree(golden_dir / part, tmp_path / part)
    return tmp_path


def keep_cases(folder: Path, model: str, cases: list[str]) -> None:
    """Leave only some cases in a set, to be quick."""
    path = folder / "vectors" / f"{model}.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["cases"] = {name: told["cases"][name] for name in cases}
    path.write_text(json.dumps(told), encoding="utf-8")
    prefixes = tuple(f"{start}{name}." for name in cases for start in ("", "fp16."))
    rewrite(
        path.with_suffix(".safetensors"),
        lambda all_: [all_.pop(key) for key in list(all_) if not key.startswith(prefixes)],
    )


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    path.unlink()
    save_file(tensors, path)


@pytest.mark.parametrize("model", MODELS)
def test_every_golden_case_is_met(golden_dir: Path, model: str) -> None:
    report = compare_model(golden_dir, model)
    assert report.failed == ()
    told = json.loads((golden_dir / "vectors" / f"{model}.json").read_text(encoding="utf-8"))
    assert report.cases == report.tokens_exact == report.beam_exact == len(told["cases"]) >= 6
    # Far inside of the tolerances: what is left is the order of float32 sums.
    assert 0 < report.max_abs_diff_logits <= (3e-5 if model == "collavo-tiny" else 5e-4)


def test_spoilt_vectors_are_found_out(set_copy: Path) -> None:
    keep_cases(set_copy, "moai-tiny", ["m1"])

    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["m1.mixer7.gate_logits_lang"][3, 1] += 2e-4
        tensors["m1.greedy_ids"][0, 4] += 1
        tensors["m1.beam3_ids"][0, 0] += 1
        tensors["m1.hidden.3"][0, 0, 0] = torch.nan
        tensors["m1.something_new"] = torch.zeros(1)
        tensors["elsewhere"] = torch.zeros(1)

    rewrite(set_copy / "vectors" / "moai-tiny.safetensors", spoil)
    report = compare_model(set_copy, "moai-tiny")
    assert (report.cases, report.tokens_exact, report.beam_exact) == (1, 0, 0)
    assert [failed.name for failed in report.failed] == ["m1", "elsewhere"]
    for name in ("mixer7.gate_logits_lang", "greedy_ids", "beam3_ids", "hidden.3", "something_new"):
        assert name in report.failed[0].reason


def test_a_spoilt_weight_is_found_out_and_the_command_says_so(set_copy: Path) -> None:
    keep_cases(set_copy, "collavo-tiny", ["c3"])
    arguments = ["llm", str(set_copy), "--model", "collavo-tiny"]
    good = CliRunner().invoke(app, [*arguments, "--json"])
    assert good.exit_code == 0
    last = json.loads(good.stdout.splitlines()[-1])
    assert sorted(last) == ["beam_exact", "cases", "failed", "max_abs_diff_logits", "tokens_exact"]

    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.feed_forward.w3.Plora_seg_B.weight"] *= 1.5

    rewrite(set_copy / "checkpoints" / "collavo-tiny" / "model-00001-of-00002.safetensors", spoil)
    bad = CliRunner().invoke(app, arguments)
    assert bad.exit_code == 1
    assert "0 of 1 cases of collavo-tiny met" in bad.stdout
    assert "layer0.wqkv" not in bad.stdout  # what comes before the spoilt weight agrees
    assert "hidden.0 differs" in bad.stdout


@pytest.mark.parametrize("gone", ["vectors/moai-tiny.json", "checkpoints/moai-tiny/config.json"])
def test_a_folder_that_is_no_golden_set_is_refused(set_copy: Path, gone: str) -> None:
    (set_copy / gone).unlink()
    result = CliRunner().invoke(app, ["llm", str(set_copy), "--model", "moai-tiny", "--json"])
    assert result.exit_code == 2


def test_a_checkpoint_that_lacks_a_tensor_is_refused(set_copy: Path) -> None:
    folder = set_copy / "checkpoints" / "moai-tiny"
    (folder / "model.safetensors.index.json").unlink()
    rewrite(
        folder / "model-00001-of-00002.safetensors",
        lambda tensors: tensors.pop("model.layers.0.ffn_norm.weight"),
    )
    result = CliRunner().invoke(app, ["llm", str(set_copy), "--model", "moai-tiny"])
    assert result.exit_code == 2
    assert "model.layers.0.ffn_norm.weight" in result.output.replace("\n", "")


def test_a_tensor_that_nothing_is_known_of_has_no_tolerance() -> None:
    assert tolerance("moai", "hidden.6", (7, 15)) < tolerance("moai", "hidden.7", (7, 15))
    with pytest.raises(KeyError):
        tolerance("moai", "hidden", (7,))
