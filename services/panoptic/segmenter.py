"""What a panoptic backend is to the service: pictures in, partitions out, whichever network lies between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from services.panoptic.model import PanopticParams, PanopticResult
from serving.preprocess import Picture

Prepared = TypeVar("Prepared")
Raw = TypeVar("Raw")


class Segmenter(Protocol[Prepared, Raw]):
    """The three stages of one picture; `infer` alone touches the device, blocking, one caller at a time."""

    labels: tuple[str, ...]

    def preprocess(self, image: Picture, params: PanopticParams) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB."""
        ...

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """One batch, at most as large as the engine takes."""
        ...

    def postprocess(self, raw: Raw, params: PanopticParams) -> PanopticResult:
        """The partition at the picture's own size, and the grids asked for."""
        ...

    def warm_up(self) -> None:
        """One real inference at batch 1 and one at the largest batch."""
        ...


AnySegmenter = Segmenter[Any, Any]
