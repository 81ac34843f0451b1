"""The table of predicates is the data set's, and the scene graph expert's ids are places in it."""

from __future__ import annotations

import pytest

from services.scene_graph.predicates import PREDICATE_IDS
from serving.psg import PSG_PREDICATES


def test_there_are_fifty_six_each_once() -> None:
    assert len(set(PSG_PREDICATES)) == len(PSG_PREDICATES) == 56
    assert all(name == " ".join(name.split()).lower() for name in PSG_PREDICATES)


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "over"), (7, "on back of"), (21, "holding"), (33, "chasing"), (46, "riding"), (55, "leaning on")],
)
def test_ids_are_the_data_set_s(number: int, name: str) -> None:
    assert PSG_PREDICATES[number] == name
    assert PREDICATE_IDS[name] == number
