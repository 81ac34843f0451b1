"""Settings come from the environment, are frozen, and name the variable that is wrong."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from serving.settings import Port, ServerSettings, load_settings


class OcrSettings(ServerSettings):
    """As an expert's `__main__` would define them."""

    model_config = SettingsConfigDict(env_prefix="OCR_")
    port: Port = 50064


class NeedySettings(ServerSettings):
    """With an address that must be given."""

    model_config = SettingsConfigDict(env_prefix="NEEDY_")
    port: Port = 1
    ocr_address: str = Field(description="where the OCR expert is")


def test_the_environment_wins_over_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCR_PORT", "6000")
    monkeypatch.setenv("OCR_LOG_LEVEL", "debug")
    settings = load_settings(OcrSettings)
    assert (settings.port, settings.log_level, settings.metrics_port) == (6000, "debug", 0)


def test_settings_of_another_process_do_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "6000")
    monkeypatch.setenv("PORT", "6001")
    assert load_settings(OcrSettings).port == 50064


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCR_OTLP_ENDPOINT", "")
    assert load_settings(OcrSettings).otlp_endpoint is None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        OcrSettings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OCR_PORT", "70000"),
        ("OCR_PORT", "http"),
        ("OCR_DRAIN_GRACE_S", "-1"),
        ("OCR_DRAIN_GRACE_S", "nan"),
        ("OCR_LOG_LEVEL", "loud"),
        ("OCR_MAX_MESSAGE_BYTES", "0"),
        ("OCR_KEEPALIVE_TIME_S", "0"),
    ],
)
def test_a_bad_value_stops_the_process_and_names_the_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as caught:
        load_settings(OcrSettings)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"{variable}: ")


def test_a_missing_address_stops_the_process_and_names_the_variable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        load_settings(NeedySettings)
    assert capsys.readouterr().err == "NEEDY_OCR_ADDRESS: Field required\n"


def test_equal_ports_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OCR_METRICS_PORT", "50064")
    with pytest.raises(SystemExit):
        load_settings(OcrSettings)
    assert "50064" in capsys.readouterr().err
