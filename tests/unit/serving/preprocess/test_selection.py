"""Preparation on the device is chosen by what is there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from serving.engine import Engine, FakeEngine, Tensor, TensorSpec
from serving.engine.rows import Row
from serving.engine.settings import EngineSettings
from serving.image import ImageLimits, decode_image
from serving.preprocess.selection import Decode, decoder_for

SPEC = (TensorSpec("x", ("batch", 3, 8, 8), "float32"),)


class RowsEngine(FakeEngine):
    def run_rows(self, inputs: Mapping[str, Sequence[Row]]) -> dict[str, Tensor]:
        raise AssertionError("not run here")


class Opened:
    """In place of preparation on a device: remembers the GPU that it was asked for."""

    def __init__(self) -> None:
        self.gpus: list[int] = []

    def __call__(self, gpu: int) -> Any:
        self.gpus.append(gpu)
        return self

    def decode(self, data: bytes, limits: ImageLimits) -> Any:
        raise AssertionError("not decoded here")


HOST, DEVICE = FakeEngine(SPEC, SPEC, dict), RowsEngine(SPEC, SPEC, dict)


def asked(opened: Opened, *engines: Engine, installed: bool = True, **told: Any) -> Decode:
    settings = EngineSettings(port=0, gpu=1, **told)
    return decoder_for(settings, *engines, installed=lambda: installed, open_device=opened)


def test_where_everything_is_there_the_device_decodes() -> None:
    opened = Opened()
    assert asked(opened, DEVICE) == asked(opened, DEVICE, DEVICE) == opened.decode
    assert opened.gpus == [1, 1]


@pytest.mark.parametrize("engines", [(HOST,), (), (DEVICE, HOST)])
def test_engines_that_take_no_rows_are_given_pictures_of_the_host(engines: tuple[Engine, ...]) -> None:
    opened = Opened()
    assert asked(opened, *engines) is decode_image
    assert opened.gpus == []


def test_without_the_codec_and_where_it_is_turned_off_the_host_decodes() -> None:
    opened = Opened()
    assert asked(opened, DEVICE, installed=False) is decode_image
    assert asked(opened, DEVICE, device_preparation=False) is decode_image
    assert opened.gpus == []


def test_asking_loads_neither_torch_nor_the_codec() -> None:
    code = """
import sys
from serving.engine import FakeEngine
from serving.engine.settings import EngineSettings
from serving.expert import Stages
from serving.image import decode_image
from serving.preprocess import Recipe
from serving.preprocess.selection import decoder_for
assert decoder_for(EngineSettings(port=0), FakeEngine((), (), dict)) is decode_image
print(sorted({"torch", "nvidia.nvimgcodec"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
