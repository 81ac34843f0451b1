"""`polysight evaluate ablation` on the random model: what it prints, leaves, skips and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.evaluate import app

SMALL = ("ablation", "--base", "tiny", "--seeds", "1", "--steps", "2", "--n", "1")


def run(*args: Any) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def told(done: Any) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_both_ablations_are_trained_scored_and_skipped_when_done(tmp_path: Path) -> None:
    report = told(run(*SMALL, "--out", tmp_path, "--json"))
    assert list(report["crayon"]) == ["off", "semantic", "both"]
    assert list(report["adapters"]) == ["vl_only", "single", "dual"]
    assert all({"existence", "position", "count", "spread"} <= set(row) for row in report["crayon"].values())
    assert all({"object", "vl", "spread"} <= set(row) for row in report["adapters"].values())
    cards = sorted(tmp_path.glob("*/card.json"))
    assert len(cards) == 6
    written = [card.stat().st_mtime_ns for card in cards]
    assert told(run(*SMALL, "--out", tmp_path, "--json")) == report
    assert [card.stat().st_mtime_ns for card in cards] == written
    other = run(*SMALL, "--steps", "3", "--out", tmp_path)
    assert other.exit_code == 2
    assert "other settings" in " ".join(other.output.split())


@pytest.mark.parametrize(
    ("args", "said"), [(("--base", "huge"), "--base"), (("--part", "neither"), "--part")]
)
def test_what_makes_no_sense_is_refused(args: tuple[str, ...], said: str) -> None:
    done = run("ablation", *args)
    assert done.exit_code == 2
    assert said in done.output


def test_weights_without_a_crayon_prompt_have_none_to_switch_off(tmp_path: Path) -> None:
    done = run(*SMALL, "--part", "crayon", "--adapters", tmp_path)
    assert done.exit_code == 2
    assert "crayon_config.json" in " ".join(done.output.split()).replace(" ", "")


def test_the_commands_are_listed() -> None:
    text = run("--help").output
    assert all(name in text for name in ("scenes", "ablation", "free", "coco-probes", "benchmarks"))
    assert "--noise" in run("scenes", "--help").output
