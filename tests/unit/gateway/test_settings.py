"""The gateway's environment."""

from __future__ import annotations

import pytest

from gateway.settings import GatewaySettings
from serving.settings import load_settings

NAMES = ("PANOPTIC", "DETECTION", "SCENE_GRAPH", "OCR", "LLM_SERVER")


def test_a_gateway_that_does_not_know_its_experts_stops_at_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        monkeypatch.delenv(f"GATEWAY_{name}_ADDRESS", raising=False)
    monkeypatch.setenv("GATEWAY_OCR_ADDRESS", "ocr:1")
    with pytest.raises(SystemExit) as stopped:
        load_settings(GatewaySettings)
    assert stopped.value.code == 2
    complaint = capsys.readouterr().err
    assert [f"GATEWAY_{name}_ADDRESS" in complaint for name in NAMES] == [True, True, True, False, True]


def test_defaults_and_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in enumerate(NAMES):
        monkeypatch.setenv(f"GATEWAY_{name}_ADDRESS", f"{name.lower()}:{place}")
    monkeypatch.setenv("GATEWAY_EXPERT_BUDGET_S", "2.5")
    monkeypatch.setenv("GATEWAY_MAX_IMAGE_SIDE", "1000")
    settings = load_settings(GatewaySettings)
    assert (settings.port, settings.metrics_port, settings.expert_budget_s) == (50060, 51060, 2.5)
    assert settings.addresses == {
        "panoptic": "panoptic:0",
        "detection": "detection:1",
        "scene_graph": "scene_graph:2",
        "ocr": "ocr:3",
    }
    assert settings.image_limits.max_side == 1000
