"""The models that this plugin offers, as lmms-eval looks for them: module name to class name."""

from __future__ import annotations

AVAILABLE_MODELS = {"polysight": "Polysight"}
