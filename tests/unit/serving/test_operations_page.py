"""docs/operations.md says what the code says, where a program can tell."""

from __future__ import annotations

import re
from pathlib import Path

from serving.settings import ServerSettings
from serving.telemetry.metrics import Metrics

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text()


def test_the_table_of_settings_is_complete_and_true() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    expected = {}
    for name, setting in ServerSettings.model_fields.items():
        if setting.is_required():
            default = "each process its own"
        elif isinstance(setting.default, float):
            default = f"{setting.default:g}"
        else:
            default = "none" if setting.default is None else str(setting.default)
        expected[name.upper()] = default
    assert rows == expected


def test_every_metric_that_the_page_names_exists() -> None:
    metrics = Metrics("ocr")
    metrics.batcher(lambda: 0)
    text = metrics.text()
    named = re.findall(r"^\| `<service>_([a-z_]+)", PAGE, re.MULTILINE)
    assert len(named) >= 7
    for name in named:
        assert f"# HELP ocr_{name}" in text or f"# HELP ocr_{name.removesuffix('_total')}" in text
