"""The model class that lmms-eval loads; the only module here that needs lmms-eval installed."""

from __future__ import annotations

import importlib
from typing import Any

from llm_server.evaluation.lmms_eval_plugin.gateway_model import gateway_model

# Not an import statement: lmms-eval is no dependency, and its base class is only known where it is installed.
_BASE: type[Any] = importlib.import_module("lmms_eval.api.model").lmms

Polysight = gateway_model(_BASE)
