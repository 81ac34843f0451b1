"""Gate overrides, from the contract's words to the models' own, and gate weights back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, get_args

from llm_server.models.gates import (
    BlendedGate,
    FixedGate,
    Gate,
    GateBias,
    GateOverrideError,
    GateOverrides,
    Side,
    Triple,
    one_expert,
)
from llm_server.prompting import invalid
from polysight.llm.v1 import generation_pb2 as pb

_SIDES: Final[Mapping[int, tuple[Side, ...]]] = {
    pb.GATE_SIDE_UNSPECIFIED: get_args(Side),
    pb.GATE_SIDE_IMAGE: ("image",),
    pb.GATE_SIDE_LANGUAGE: ("language",),
}
_ON_THE_WIRE: Final[Mapping[Side, pb.GateSide]] = {
    "image": pb.GATE_SIDE_IMAGE,
    "language": pb.GATE_SIDE_LANGUAGE,
}
_EXPERTS: Final = (pb.GATE_EXPERT_AUXILIARY, pb.GATE_EXPERT_CROSS, pb.GATE_EXPERT_SELF)


def read_overrides(wanted: Sequence[pb.GateOverride], mixers: Sequence[int]) -> GateOverrides | None:
    """What the request changes; None if nothing. Raises InvalidFieldError, ``mixers`` being the layers with gates."""
    if not wanted:
        return None
    everywhere: dict[Side, Gate] = {}
    layers: dict[tuple[int, Side], Gate] = {}
    for index, one in enumerate(wanted):
        field = f"gates.overrides[{index}]"
        gate = _gate(one, field)
        if one.HasField("layer") and one.layer not in mixers:
            raise invalid(
                f"{field}.layer",
                "has_mixer",
                f"layer {one.layer} has no mixer; those with one are {list(mixers)}",
            )
        if one.side not in _SIDES:
            raise invalid(f"{field}.side", "enum.defined_only", "must be one of the two sides")
        for side in _SIDES[one.side]:
            named = (one.layer, side) in layers if one.HasField("layer") else side in everywhere
            if named:
                raise invalid(field, "unique", f"the {side} side is overridden twice there")
            if one.HasField("layer"):
                layers[one.layer, side] = gate
            else:
                everywhere[side] = gate
    return GateOverrides(everywhere, layers)


def _gate(one: pb.GateOverride, field: str) -> Gate:
    kind = one.WhichOneof("gate")
    try:
        match kind:
            case "fixed":
                return FixedGate(_triple(one.fixed))
            case "bias":
                return GateBias(_triple(one.bias))
            case "blended":
                return BlendedGate(_triple(one.blended.weights), one.blended.share)
            case "only":
                if one.only not in _EXPERTS:
                    raise GateOverrideError(f"there is no expert {one.only}")
                return one_expert(_EXPERTS.index(one.only))
            case _:
                raise invalid(field, "required", "says nothing about how to weigh")
    except GateOverrideError as error:
        raise invalid(f"{field}.{kind}", "range", str(error)) from error


def _triple(weights: pb.ExpertWeights) -> Triple:
    return weights.auxiliary, weights.cross, weights.self


def write_overrides(overrides: GateOverrides) -> list[pb.GateOverride]:
    """What :func:`read_overrides` reads: for callers that ask a routing store (:mod:`llm_server.routing`)."""
    places: list[tuple[int | None, Side, Gate]] = [
        *((None, side, gate) for side, gate in sorted(overrides.everywhere.items())),
        *((layer, side, gate) for (layer, side), gate in sorted(overrides.layers.items())),
    ]
    return [_written(layer, side, gate) for layer, side, gate in places]


def _written(layer: int | None, side: Side, gate: Gate) -> pb.GateOverride:
    one = pb.GateOverride(layer=layer, side=_ON_THE_WIRE[side])
    match gate:
        case FixedGate():
            one.fixed.CopyFrom(_weights(gate.weights))
        case GateBias():
            one.bias.CopyFrom(_weights(gate.logits))
        case BlendedGate():
            one.blended.CopyFrom(pb.BlendedWeights(weights=_weights(gate.weights), share=gate.share))
    return one


def _weights(numbers: Triple) -> pb.ExpertWeights:
    return pb.ExpertWeights(auxiliary=numbers[0], cross=numbers[1], self=numbers[2])


def gate_weights(means: Mapping[tuple[int, Side], Triple]) -> list[pb.GateWeights]:
    """By layer, the picture's side first."""
    return [
        pb.GateWeights(layer=layer, side=_ON_THE_WIRE[side], mean=_weights(mean))
        for (layer, side), mean in sorted(means.items())
    ]
