"""The golden set's tiny checkpoints, loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_server.models.checkpoint import load
from llm_server.models.collavo import Collavo
from llm_server.models.moai import Moai


@pytest.fixture(scope="session")
def collavo(golden_dir: Path) -> Collavo:
    """A random CoLLaVO of width 64, with a grid of 5 x 5."""
    model = load(golden_dir / "checkpoints" / "collavo-tiny")
    assert isinstance(model, Collavo)
    return model


@pytest.fixture(scope="session")
def moai(golden_dir: Path) -> Moai:
    """A random MoAI of width 64, with a mixer in layer 7."""
    model = load(golden_dir / "checkpoints" / "moai-tiny")
    assert isinstance(model, Moai)
    return model
