from __future__ import annotations

import pytest
from pydantic import ValidationError

from llm_server.settings import LlmServerSettings


def test_defaults_are_those_of_the_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_SERVER_PRECISION", raising=False)
    settings = LlmServerSettings()
    assert (settings.port, settings.metrics_port, settings.precision) == (50065, 51065, "nf4-dequantised")
    assert settings.adapters_dir.name == "adapters"


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVER_PRECISION", "bf16")
    monkeypatch.setenv("LLM_SERVER_MAX_SEQUENCES", "3")
    settings = LlmServerSettings()
    assert (settings.precision, settings.max_sequences) == ("bf16", 3)


@pytest.mark.parametrize(
    ("name", "value"), [("PRECISION", "int8"), ("MAX_SEQUENCES", "0"), ("CONTEXT_LENGTH", "5")]
)
def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"LLM_SERVER_{name}", value)
    with pytest.raises(ValidationError):
        LlmServerSettings()


def test_a_published_model_needs_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVER_MODEL", "moai")
    monkeypatch.delenv("LLM_SERVER_CHECKPOINT", raising=False)
    with pytest.raises(ValidationError, match="LLM_SERVER_CHECKPOINT"):
        LlmServerSettings()
    monkeypatch.setenv("LLM_SERVER_CHECKPOINT", "/models/moai-7b")
    settings = LlmServerSettings()
    assert (settings.checkpoint_precision, settings.profile) == ("bf16", "serving")
