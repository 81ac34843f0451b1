"""What a detection backend is to the service: a search worked out from a request, and the stages of a picture.

A backend is a `Detector`, which sees, and a `Search`, which says what a request means to it. The servicer asks the
second what to look for and sends the picture through the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from services.detection.model import DetectionResult
from services.detection.vocabulary import MappedTerm
from serving.preprocess import Picture

Params = TypeVar("Params")
Params_contra = TypeVar("Params_contra", contravariant=True)
Prepared = TypeVar("Prepared")
Raw = TypeVar("Raw")

Corners = tuple[float, float, float, float]
"""xyxy, normalised to the picture as sent."""


@dataclass(frozen=True)
class Example:
    """A picture of what to look for: the bytes of its file, and where in it (None: its most object-like part)."""

    picture: bytes
    box: Corners | None = None


@dataclass(frozen=True)
class Request:
    """What a caller asks, of any backend; None: not said."""

    score_threshold: float | None = None
    max_detections: int | None = None
    iou_threshold: float | None = None
    vocabulary: tuple[str, ...] = ()
    class_agnostic: bool = False
    examples: tuple[Example, ...] = ()
    reference: bool = False


@dataclass(frozen=True)
class Wanted(Generic[Params]):
    """What a request means to a backend.

    `params` are the detector's own. `names`: the label of every label id, empty where detections have none. `terms`:
    what became of each word asked for, in order. `claims`: for a label id, the index of the word that asked for it, if
    words were brought. `by_example`: label ids count the request's pictures. `vocabulary_version`: of the backend's own
    words, if those are looked for.
    """

    params: Params
    names: Sequence[str] = ()
    terms: tuple[MappedTerm, ...] = ()
    claims: Mapping[int, int] | None = None
    by_example: bool = False
    reference: bool = False
    vocabulary_version: str = ""


class Search(Protocol[Params]):
    """From a request to what a backend looks for. May compute: `timeout_s` is what is left of the caller's deadline."""

    async def resolve(self, request: Request, timeout_s: float | None) -> Wanted[Params]:
        """Raises a PolysightError for what the backend does not offer."""
        ...

    async def close(self) -> None:
        """Finish what was accepted and give threads back."""
        ...


class Detector(Protocol[Params_contra, Prepared, Raw]):
    """The three stages of one picture; `infer` alone touches the device, blocking, one caller at a time."""

    labels: tuple[str, ...]

    def preprocess(self, image: Picture, params: Params_contra) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB."""
        ...

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """One batch, at most as large as the engine takes."""
        ...

    def postprocess(self, raw: Raw, params: Params_contra) -> DetectionResult:
        """What was found, in coordinates of the picture as sent."""
        ...

    def warm_up(self) -> None:
        """One real inference at batch 1 and one at the largest batch."""
        ...


AnyDetector = Detector[Any, Any, Any]
AnySearch = Search[Any]
