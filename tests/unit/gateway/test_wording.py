"""Whose choice of words counts."""

from __future__ import annotations

import pytest

from bench.dummies import model_info
from gateway.wording import Wording, wording
from polysight.gateway.v1 import polysight_pb2
from polysight.llm.v1 import generation_pb2

COLLAVO, MOAI = generation_pb2.VERBALIZATION_FORM_COLLAVO, generation_pb2.VERBALIZATION_FORM_MOAI
POLYSIGHT, UNSET = (
    generation_pb2.VERBALIZATION_FORM_POLYSIGHT,
    generation_pb2.VERBALIZATION_FORM_UNSPECIFIED,
)
DEFAULT = Wording(POLYSIGHT, (35, 35))


@pytest.mark.parametrize(
    ("caller", "model", "expected"),
    [
        (UNSET, None, POLYSIGHT),
        (UNSET, UNSET, POLYSIGHT),
        (UNSET, MOAI, MOAI),
        (COLLAVO, MOAI, COLLAVO),
        (COLLAVO, None, COLLAVO),
    ],
)
def test_the_caller_s_choice_before_the_model_s_before_the_gateway_s(
    caller: generation_pb2.VerbalizationForm,
    model: generation_pb2.VerbalizationForm | None,
    expected: generation_pb2.VerbalizationForm,
) -> None:
    options = polysight_pb2.PerceptionOptions(verbalization_form=caller)
    info = None if model is None else model_info(verbalization_form=model)
    assert wording(options, info, DEFAULT) == Wording(expected, (35, 35))


def test_a_model_with_crayon_maps_of_its_own_size() -> None:
    options = polysight_pb2.PerceptionOptions()
    unused = model_info(crayon_height=14, crayon_width=28)
    used = model_info(crayon_height=14, crayon_width=28, uses_crayon=True)
    assert wording(options, unused, DEFAULT).crayon_grid == (35, 35)
    assert wording(options, used, DEFAULT).crayon_grid == (14, 28)
