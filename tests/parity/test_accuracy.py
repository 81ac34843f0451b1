"""Serving must not lose accuracy: average precision through real services beside the trainer's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.accuracy import main


@pytest.mark.weights
@pytest.mark.slow
def test_average_precision_survives_serving(photos_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--images", str(photos_dir), "--annotations", str(photos_dir / "instances.json"), "--json"]
    assert main(arguments) == 0
    numbers = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert numbers["images"] == 6
    assert numbers["box_ap_served"] == pytest.approx(numbers["box_ap_in_process"], abs=0.01)
    assert numbers["mask_ap_served"] == pytest.approx(numbers["mask_ap_in_process"], abs=0.01)
    assert numbers["box_ap_served"] > 0.35
    assert numbers["mask_ap_served"] > 0.28
