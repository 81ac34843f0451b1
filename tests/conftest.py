"""Where tests find data: the golden set, the photos with ground truth, ultralytics' sample pictures."""

from __future__ import annotations

import os

# Before any numeric library is loaded, as every process of the mesh does.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The golden set (prompts, panoptic cases, tiny checkpoints); POLYSIGHT_GOLDEN names another of the same layout."""
    return Path(os.environ.get("POLYSIGHT_GOLDEN", TESTS / "parity" / "golden"))


@pytest.fixture(scope="session")
def photos_dir() -> Path:
    """Six COCO photos (*.jpg) with instances.json and their attribution."""
    return TESTS / "assets" / "photos"


def ultralytics_asset(name: str) -> Path:
    """A sample picture from the ultralytics package (bus.jpg, zidane.jpg); it is not ours to copy."""
    spec = find_spec("ultralytics")
    assert spec is not None, "ultralytics is not installed: run scripts/setup dev"
    assert spec.origin is not None
    return Path(spec.origin).parent / "assets" / name


@pytest.fixture(scope="session")
def bus_jpg() -> Path:
    """A bus, four people, and words on the bus."""
    return ultralytics_asset("bus.jpg")


@pytest.fixture(scope="session")
def zidane_jpg() -> Path:
    """Two men, one with a tie; no words."""
    return ultralytics_asset("zidane.jpg")


# Property tests judge what comes out, not how long a busy machine takes for one example.
settings.register_profile("polysight", deadline=None)
settings.load_profile("polysight")
