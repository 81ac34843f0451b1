"""The settings choose the network; what does not fit is said before anything is served."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.detection.backend import open_backend
from services.detection.closed_search import ClosedSearch
from services.detection.detector import Example, Request
from services.detection.model import DetectionParams
from services.detection.settings import DetectionSettings
from serving.errors import UnsupportedOptionError
from serving.weights import WeightStore, WeightsUnavailableError


def test_yolo_is_the_default() -> None:
    settings = DetectionSettings()
    assert (settings.backend, settings.score_threshold, settings.max_detections) == ("yolo", None, None)


def test_owlv2_needs_an_exported_folder(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="model_path"):
        DetectionSettings(backend="owlv2")
    with pytest.raises(ValidationError, match="vocabulary_template"):
        DetectionSettings(vocabulary_template="a photo")
    with pytest.raises(WeightsUnavailableError, match="export owlv2"):
        open_backend(DetectionSettings(backend="owlv2", model_path=tmp_path), WeightStore(tmp_path))


def test_a_process_without_its_folder_says_so_and_ends(tmp_path: Path) -> None:
    settings = {
        "DETECTION_BACKEND": "owlv2",
        "DETECTION_MODEL_PATH": str(tmp_path),
        "POLYSIGHT_CACHE": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "services.detection"],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "python -m services.detection.export owlv2" in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_loads_no_training_framework() -> None:
    heavy = ("torch", "transformers", "ultralytics", "tokenizers")
    code = (
        "import services.detection.__main__, sys; "
        f"assert not [name for name in {heavy} if name in sys.modules], 'loaded'; "
        "import services.detection.owlv2.backend; "
        f"assert not [name for name in {heavy[:3]} if name in sys.modules], 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


async def test_a_closed_vocabulary_refuses_what_needs_an_open_one() -> None:
    search = ClosedSearch(("cat", "dog"), DetectionParams(0.25, 300))
    for request in (Request(class_agnostic=True), Request(examples=(Example(b""),))):
        with pytest.raises(UnsupportedOptionError):
            await search.resolve(request, None)
    wanted = await search.resolve(Request(0.5, 7, 0.4, ("puppy",), reference=True), None)
    assert wanted.params == DetectionParams(0.5, 7, frozenset({1}), 0.4)
    assert not wanted.reference
    await search.close()
