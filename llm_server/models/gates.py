"""Who decides how a mixer weighs its three experts: the model's own gate, or the caller.

A mixer has two sides, image and language. Per side and token a gate weighs the experts in the order of `EXPERTS`:
attention to the auxiliary tokens, to the other side, and to its own side. Re-weighing them at serving time is what
R2-T2 (arXiv 2502.20395) gains its accuracy with. Pure: no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

Side: TypeAlias = Literal["image", "language"]
Triple: TypeAlias = tuple[float, float, float]

EXPERTS: Final = ("aux", "cross", "self")


class GateOverrideError(ValueError):
    """A gate override that no mixer can follow."""


@dataclass(frozen=True)
class FixedGate:
    """The same weights for every token. They need not sum to 1, but must be finite and not below 0."""

    weights: Triple

    def __post_init__(self) -> None:
        _check(self.weights, "weights")
        if min(self.weights) < 0:
            raise GateOverrideError(f"gate weights {self.weights} are below 0")


@dataclass(frozen=True)
class GateBias:
    """Added to the model's own gate logits, before their softmax."""

    logits: Triple

    def __post_init__(self) -> None:
        _check(self.logits, "logits")


@dataclass(frozen=True)
class BlendedGate:
    """``share`` of fixed weights and the rest of the model's own, token by token."""

    weights: Triple
    share: float

    def __post_init__(self) -> None:
        FixedGate(self.weights)
        if not 0 <= self.share <= 1:
            raise GateOverrideError(f"a share of {self.share} is not between 0 and 1")


Gate: TypeAlias = FixedGate | GateBias | BlendedGate


def one_expert(expert: int) -> FixedGate:
    """The output of one expert alone (MoAI's first training step): 0 auxiliary, 1 cross, 2 self."""
    if expert not in range(len(EXPERTS)):
        raise GateOverrideError(f"there is no expert {expert}; they are numbered 0 to {len(EXPERTS) - 1}")
    first, second, third = (1.0 if expert == number else 0.0 for number in range(len(EXPERTS)))
    return FixedGate((first, second, third))


@dataclass(frozen=True)
class GateOverrides:
    """What a request changes about the gates: per side for all layers, or per layer and side, which goes first."""

    everywhere: Mapping[Side, Gate] = field(default_factory=dict)
    layers: Mapping[tuple[int, Side], Gate] = field(default_factory=dict)

    def of(self, layer: int, side: Side) -> Gate | None:
        """What holds for one gate; None leaves it to the model."""
        return self.layers.get((layer, side), self.everywhere.get(side))

    def check(self, mixers: Iterable[int]) -> None:
        """Raises :class:`GateOverrideError` if a layer is named that has no mixer."""
        have = sorted(mixers)
        for layer, _ in self.layers:
            if layer not in have:
                raise GateOverrideError(f"layer {layer} has no mixer; those with one are {have}")


def _check(numbers: Triple, what: str) -> None:
    if len(numbers) != len(EXPERTS) or not all(math.isfinite(number) for number in numbers):
        raise GateOverrideError(f"gate {what} must be {len(EXPERTS)} finite numbers, not {numbers}")
