"""The setting `providers`, from the environment to ONNX Runtime's names."""

from __future__ import annotations

import importlib

import pytest
from pydantic import BaseModel, ValidationError

from serving.engine.providers import Providers, onnxruntime_providers
from serving.settings import ServerSettings

EXPERTS = {"detection": "DetectionSettings", "ocr": "OcrSettings", "scene_graph": "SceneGraphSettings"}


class Model(BaseModel):
    providers: Providers = ("cpu",)


def settings_of(expert: str) -> ServerSettings:
    made: ServerSettings = getattr(importlib.import_module(f"services.{expert}.settings"), EXPERTS[expert])()
    return made


@pytest.mark.parametrize("expert", EXPERTS)
def test_every_expert_runs_on_the_cpu_unless_told_otherwise(
    expert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"{expert.upper()}_PROVIDERS"
    monkeypatch.delenv(variable, raising=False)
    assert settings_of(expert).model_dump()["providers"] == ("cpu",)
    monkeypatch.setenv(variable, "TensorRT, cuda,cpu")
    assert settings_of(expert).model_dump()["providers"] == ("tensorrt", "cuda", "cpu")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Input should be"),
        ("gpu", "Input should be"),
        ("cuda,cuda", "once"),
        ("cpu,cuda", "put cpu last"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Model.model_validate({"providers": text})
    with pytest.raises(ValidationError, match="at least one"):
        Model.model_validate({"providers": ()})


def test_names_are_onnx_runtimes_own() -> None:
    assert onnxruntime_providers(("tensorrt", "cuda", "cpu")) == (
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    )
