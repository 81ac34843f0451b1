"""Optimisation profiles: the range of input shapes that a plan is built for, and the shapes it is tuned for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.engine.protocol import TensorSpec
from serving.engine.tensorrt.errors import ProfileError

Shape = tuple[Annotated[int, Field(ge=1)], ...]
_SHAPE = re.compile(r"[1-9]\d{0,8}(x[1-9]\d{0,8})*")


class ShapeRange(BaseModel):
    """The least, the likeliest and the largest shape of one input. Axis 0 is the batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Shape
    opt: Shape
    max: Shape

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError(f"shapes of different ranks: {self.min}, {self.opt}, {self.max}")
        if any(not low <= best <= high for low, best, high in zip(self.min, self.opt, self.max, strict=True)):
            raise ValueError(f"not min <= opt <= max: {self.min}, {self.opt}, {self.max}")
        return self

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether `shape` lies within the range."""
        return len(shape) == len(self.min) and all(
            low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True)
        )

    def distance(self, shape: tuple[int, ...]) -> int:
        """How far `shape` is from what the profile is tuned for: the difference in elements."""
        return abs(_volume(shape) - _volume(self.opt))

    def __str__(self) -> str:
        """As `parse_range` reads it."""
        return ":".join("x".join(map(str, shape)) for shape in (self.min, self.opt, self.max))


def parse_range(text: str) -> ShapeRange:
    """The range of `1x3x64x64:4x3x64x64:8x3x64x64` (least, likeliest, largest), or of one shape for all three.

    Raises ProfileError for anything else.
    """
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(map(_SHAPE.fullmatch, parts)):
        raise ProfileError(f"{text!r} is no range of shapes; write 1x3x64x64:4x3x64x64:8x3x64x64")
    low, best, high = (tuple(map(int, part.split("x"))) for part in (parts if len(parts) == 3 else parts * 3))
    try:
        return ShapeRange(min=low, opt=best, max=high)
    except ValidationError as error:
        raise ProfileError(f"{text!r}: {error.errors()[0]['msg']}") from error


class Profile(BaseModel):
    """A range for every input of a graph."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shapes: Mapping[str, ShapeRange]

    @property
    def max_batch(self) -> int:
        """The largest batch that every input takes."""
        return min(shape.max[0] for shape in self.shapes.values())

    def accepts(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether every input is within its range."""
        return all(self.shapes[name].accepts(shape) for name, shape in shapes.items())

    def distance(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """How far these inputs are from what the profile is tuned for."""
        return sum(self.shapes[name].distance(shape) for name, shape in shapes.items())

    def check(self, inputs: tuple[TensorSpec, ...]) -> None:
        """Hold the profile against the inputs of a graph; raise ProfileError naming what does not fit."""
        named = {spec.name: spec for spec in inputs}
        if named.keys() != self.shapes.keys():
            raise ProfileError(f"the profile is for {sorted(self.shapes)}, the graph takes {sorted(named)}")
        for name, shape in self.shapes.items():
            for corner in (shape.min, shape.opt, shape.max):
                if not named[name].accepts(corner):
                    raise ProfileError(f"the profile has {corner} for {named[name]}")


def choose(profiles: tuple[Profile, ...], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Index of the profile that takes these shapes and is tuned closest to them.

    Raises ProfileError naming the shapes where none takes them.
    """
    fitting = [index for index, profile in enumerate(profiles) if profile.accepts(shapes)]
    if not fitting:
        asked = {name: list(shape) for name, shape in shapes.items()}
        raise ProfileError(f"no profile of the plan takes {asked}")
    return min(fitting, key=lambda index: profiles[index].distance(shapes))


def bucket(batch: int, max_batch: int) -> int:
    """The size to which a batch is padded so that few distinct shapes are ever run: a power of two, or the maximum."""
    size = 1
    while size < batch:
        size *= 2
    return min(size, max_batch)


def _volume(shape: tuple[int, ...]) -> int:
    volume = 1
    for size in shape:
        volume *= size
    return volume
