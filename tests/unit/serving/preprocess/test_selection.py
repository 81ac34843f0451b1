"""Preparation on the device is chosen by what is there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence

from serving.engine import FakeEngine, Tensor, TensorSpec
from serving.engine.rows import Row
from serving.preprocess.selection import preparation_for

SPEC = (TensorSpec("x", ("batch", 3, 8, 8), "float32"),)


class RowsEngine(FakeEngine):
    def run_rows(self, inputs: Mapping[str, Sequence[Row]]) -> dict[str, Tensor]:
        raise AssertionError("not run here")


def test_an_engine_of_the_host_prepares_on_the_host() -> None:
    assert preparation_for(FakeEngine(SPEC, SPEC, dict), installed=lambda: True) is None


def test_without_the_codec_pictures_are_prepared_on_the_host() -> None:
    assert preparation_for(RowsEngine(SPEC, SPEC, dict), installed=lambda: False) is None


def test_asking_loads_neither_torch_nor_the_codec() -> None:
    code = """
import sys
from serving.engine import FakeEngine
from serving.preprocess import Recipe
from serving.preprocess.selection import preparation_for
assert preparation_for(FakeEngine((), (), dict)) is None
print(sorted({"torch", "nvidia.nvimgcodec"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
