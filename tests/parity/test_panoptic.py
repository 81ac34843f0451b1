"""Panoptic post-processing of the published systems: the whole golden set is met, and a spoilt set is found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from cli.parity import app, run_panoptic


@pytest.fixture
def set_copy(golden_dir: Path, tmp_path: Path) -> Path:
    """A golden set to spoil."""
    shutil.copytree(golden_dir / "panoptic", tmp_path / "panoptic")
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "panoptic" / "postprocess.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_every_golden_case_is_met_exactly(golden_dir: Path) -> None:
    report = run_panoptic(golden_dir)
    assert report.failed == ()
    golden = json.loads((golden_dir / "panoptic" / "postprocess.json").read_text(encoding="utf-8"))
    assert report.exact == report.cases == len(golden["cases"]) >= 1


def test_spoilt_answers_are_found_out(set_copy: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        cases = content["cases"]
        cases[0]["pred_labels"][0] += 1
        cases[1]["outputs"][0]["segments_info"][0]["score"] += 1e-6
        cases[2]["kept_by_score"].pop()
        cases[3]["outputs"][1]["sha256_int8"] = "0" * 64
        cases[4]["outputs"][0]["pixels_per_id"]["0"] += 1
        cases[5]["pred_scores"][0] += 1e-6
        content["more"] = [{"name": "new"}]

    rewrite(set_copy, spoil)
    report = run_panoptic(set_copy)
    named = json.loads((set_copy / "panoptic" / "postprocess.json").read_text(encoding="utf-8"))["cases"]
    assert [failed.name for failed in report.failed] == [
        *(f"panoptic.{case['name']}" for case in named[:6]),
        "panoptic.more",
    ]
    assert report.exact == report.cases - 7


def test_spoilt_arrays_are_found_out(set_copy: Path) -> None:
    path = set_copy / "panoptic" / "postprocess.safetensors"
    arrays = load_file(path)
    maps = sorted(name for name in arrays if name.endswith("35x35"))
    runs = sorted(name for name in arrays if name.endswith("_rle"))
    arrays[maps[0]][0, 0] += 1
    arrays[runs[-1]][0, 1] -= 1  # one pixel short
    arrays["something.new"] = np.zeros(1, np.float32)
    save_file(arrays, path)
    assert {failed.name for failed in run_panoptic(set_copy).failed} == {
        f"panoptic.{maps[0].split('.')[0]}",
        f"panoptic.{runs[-1].split('.')[0]}",
        "panoptic.safetensors.something.new",
    }


def test_thresholds_come_from_the_set(set_copy: Path) -> None:
    rewrite(set_copy, lambda content: content["arguments"].update(mask_threshold=0.5))
    assert "panoptic.score_times_mask" in {failed.name for failed in run_panoptic(set_copy).failed}


def test_the_command_ends_with_one_json_object(golden_dir: Path, set_copy: Path) -> None:
    good = CliRunner().invoke(app, ["panoptic", str(golden_dir), "--json"])
    last = json.loads(good.stdout.splitlines()[-1])
    assert (good.exit_code, last["failed"], last["exact"]) == (0, [], last["cases"])

    rewrite(set_copy, lambda content: content["cases"][0].update(pred_labels=[]))
    bad = CliRunner().invoke(app, ["panoptic", str(set_copy), "--json"])
    last = json.loads(bad.stdout.splitlines()[-1])
    assert (bad.exit_code, len(last["failed"])) == (1, 1)
    assert last["failed"][0]["name"] in CliRunner().invoke(app, ["panoptic", str(set_copy)]).stdout


def test_a_folder_that_is_no_golden_set_is_refused(set_copy: Path, tmp_path_factory: Any) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert CliRunner().invoke(app, ["panoptic", str(empty)]).exit_code == 2
    rewrite(set_copy, lambda content: content.update(cases=[]))
    assert CliRunner().invoke(app, ["panoptic", str(set_copy)]).exit_code == 2
