"""Gate overrides on the wire and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.gate_request import gate_weights, read_overrides, write_overrides
from llm_server.models.gates import (
    BlendedGate,
    FixedGate,
    Gate,
    GateBias,
    GateOverrides,
    Side,
    Triple,
    one_expert,
)
from llm_server.routing import empty_store
from polysight.llm.v1 import generation_pb2 as pb
from serving.errors import InvalidFieldError

SELF = pb.GATE_EXPERT_SELF
MIXERS = (7, 15)
# What a float of the contract holds exactly.
single = st.floats(0, 1, width=32)
triples: st.SearchStrategy[Triple] = st.tuples(single, single, single)
gates: st.SearchStrategy[Gate] = st.one_of(
    st.builds(FixedGate, triples),
    st.builds(GateBias, triples),
    st.builds(BlendedGate, triples, single),
    st.builds(one_expert, st.integers(0, 2)),
)
sides: st.SearchStrategy[Side] = st.sampled_from(("image", "language"))


@given(st.dictionaries(sides, gates), st.dictionaries(st.tuples(st.sampled_from(MIXERS), sides), gates))
def test_what_is_written_is_read(everywhere: dict[Side, Gate], layers: dict[tuple[int, Side], Gate]) -> None:
    overrides = GateOverrides(everywhere, layers)
    read = read_overrides(write_overrides(overrides), MIXERS)
    assert (read or GateOverrides()) == overrides


def test_a_routing_store_speaks_through_the_same_override() -> None:
    places: list[tuple[int, Side]] = [(7, "image"), (7, "language")]
    store = empty_store("moai", "tiny", places, 2).with_question(
        np.array([1.0, 0.0]), {(7, "image"): (0.5, 0.25, 0.25), (7, "language"): (0.0, 0.0, 1.0)}
    )
    routing = store.route(np.array([1.0, 0.1]), share=0.5)
    assert routing is not None
    written = write_overrides(routing.overrides)
    assert [one.layer for one in written] == [7, 7]
    assert read_overrides(written, MIXERS) == routing.overrides


def test_both_sides_at_once() -> None:
    read = read_overrides([pb.GateOverride(layer=15, only=pb.GATE_EXPERT_SELF)], MIXERS)
    assert read == GateOverrides({}, {(15, "image"): one_expert(2), (15, "language"): one_expert(2)})
    assert read_overrides([], MIXERS) is None


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ([pb.GateOverride(layer=8, only=SELF)], "gates.overrides[0].layer"),
        ([pb.GateOverride()], "gates.overrides[0]"),
        (
            [pb.GateOverride(only=SELF), pb.GateOverride(side=pb.GATE_SIDE_LANGUAGE, only=SELF)],
            "gates.overrides[1]",
        ),
        ([pb.GateOverride(bias=pb.ExpertWeights(cross=float("nan")))], "gates.overrides[0].bias"),
        ([pb.GateOverride(fixed=pb.ExpertWeights(cross=-1))], "gates.overrides[0].fixed"),
        ([pb.GateOverride(blended=pb.BlendedWeights(share=2))], "gates.overrides[0].blended"),
    ],
)
def test_what_no_mixer_can_follow_is_named(wanted: list[pb.GateOverride], field: str) -> None:
    with pytest.raises(InvalidFieldError) as error:
        read_overrides(wanted, MIXERS)
    assert error.value.metadata["field"] == field


def test_weights_are_told_by_layer_the_picture_first() -> None:
    means: dict[tuple[int, Side], Triple] = {
        (15, "language"): (0, 0, 1),
        (7, "language"): (0, 1, 0),
        (7, "image"): (1, 0, 0),
    }
    told = [(one.layer, one.side) for one in gate_weights(means)]
    assert told == [(7, pb.GATE_SIDE_IMAGE), (7, pb.GATE_SIDE_LANGUAGE), (15, pb.GATE_SIDE_LANGUAGE)]
