"""Prompts of the published systems: the whole golden set is met, and a spoilt set is found out."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from cli.parity import app, run_prompts


@pytest.fixture
def set_copy(golden_dir: Path, tmp_path: Path) -> Path:
    """A golden set to spoil."""
    shutil.copytree(golden_dir / "prompts", tmp_path / "prompts")
    for tokenizer in golden_dir.glob("checkpoints/*/tokenizer.model"):
        target = tmp_path / tokenizer.relative_to(golden_dir)
        target.parent.mkdir(parents=True)
        shutil.copyfile(tokenizer, target)
    return tmp_path


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_the_set_is_as_it_was_delivered(golden_dir: Path) -> None:
    listed = [line.split() for line in (golden_dir / "SHA256SUMS").read_text().splitlines()]
    kept = [(digest, golden_dir / name) for digest, name in listed if (golden_dir / name).exists()]
    assert len(kept) >= 10
    for digest, path in kept:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, path


def test_every_golden_prompt_is_met_exactly(golden_dir: Path) -> None:
    report = run_prompts(golden_dir)
    assert report.failed == ()
    golden = json.loads((golden_dir / "prompts" / "collavo.json").read_text(encoding="utf-8"))
    assert report.exact == report.cases > len(golden["crayon"]) + len(golden["coordinate_text"])


def test_spoilt_answers_are_found_out(set_copy: Path) -> None:
    def spoil_collavo(content: dict[str, Any]) -> None:
        content["crayon"][3]["demo_prompt_text"] += " "
        content["crayon"][4]["eval_input_ids"][-1] += 1
        content["crayon"][5]["boxes"][0][0] += 1e-7
        content["crayon"][6]["demo_im_mask"]["image_start"] += 1
        content["coordinate_text"][0]["text"] = "0.01"
        content["output_trimming"][0]["eval"] += "x"
        content["tokenizer"][1]["decoded_with_special"] += "x"
        content["box_and_class_parser"][0]["classes"] = ["cat"]
        content["resize_490"]["cases"][0]["demo"]["sha256_chw_uint8"] = "0" * 64
        content["over_twenty"]["type"] = "KeyError"

    def spoil_moai(content: dict[str, Any]) -> None:
        content["seg"][2]["text"] += " "
        content["seg"][3]["colour_map_sha256_float16_chw"] = "0" * 64
        content["od"][2]["kept_labels"] = ["tree"]
        content["sgg"][3]["text"] = content["sgg"][3]["text"].replace("holding", "on")
        content["ocr"][4]["text"] = content["ocr"][4]["text"].replace(", and ", ", ")
        content["join"][0]["text"] = "  "
        content["process"][0]["aux_ids"][0] = 2
        content["palette"]["span_float32"][0] = 0.1

    rewrite(set_copy / "prompts" / "collavo.json", spoil_collavo)
    rewrite(set_copy / "prompts" / "moai.json", spoil_moai)
    report = run_prompts(set_copy)
    sections = sorted(".".join(failed.name.split(".")[:2]) for failed in report.failed)
    assert sections == sorted(
        ["collavo.crayon"] * 4
        + [
            f"collavo.{name}"
            for name in ("coordinate_text", "output_trimming", "tokenizer", "box_and_class_parser")
        ]
        + ["collavo.resize_490", "collavo.over_twenty"]
        + [
            "moai.seg",
            "moai.seg",
            "moai.od",
            "moai.sgg",
            "moai.ocr",
            "moai.join",
            "moai.process",
            "moai.palette",
        ]
    )
    assert report.exact == report.cases - len(report.failed)


def test_spoilt_arrays_are_found_out(set_copy: Path) -> None:
    path = set_copy / "prompts" / "collavo.safetensors"
    arrays = load_file(path)
    arrays["crayon.two_same.ordinal"][4, 0] += 1
    arrays["clip_position.output_1226"][7] += np.float32(1e-3)
    arrays["something.new"] = np.zeros(1, np.float32)
    save_file(arrays, path)
    names = {failed.name for failed in run_prompts(set_copy).failed}
    assert names == {
        "collavo.crayon.two_same",
        "collavo.clip_position",
        "collavo.safetensors.something.new",
    }


def test_a_section_that_nothing_compares_is_not_met(set_copy: Path) -> None:
    rewrite(set_copy / "prompts" / "moai.json", lambda content: content.update(new=[{"name": "a"}]))
    assert [failed.name for failed in run_prompts(set_copy).failed] == ["moai.new"]


def test_the_command_ends_with_one_json_object(golden_dir: Path, set_copy: Path) -> None:
    good = CliRunner().invoke(app, ["prompts", str(golden_dir), "--json"])
    last = json.loads(good.stdout.splitlines()[-1])
    assert (good.exit_code, last["failed"], last["exact"]) == (0, [], last["cases"])

    rewrite(set_copy / "prompts" / "moai.json", lambda content: content["join"][0].update(text=""))
    bad = CliRunner().invoke(app, ["prompts", str(set_copy), "--json"])
    last = json.loads(bad.stdout.splitlines()[-1])
    assert (bad.exit_code, [failed["name"] for failed in last["failed"]]) == (1, ["moai.join.0"])
    assert "moai.join.0" in CliRunner().invoke(app, ["prompts", str(set_copy)]).stdout


def test_a_folder_that_is_no_golden_set_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["prompts", str(tmp_path)])
    assert result.exit_code == 2
