"""A request to a model with a closed vocabulary: words become classes of the model, or are said to be invisible."""

from __future__ import annotations

from dataclasses import replace

from services.detection.detector import Request, Wanted
from services.detection.model import DetectionParams
from services.detection.vocabulary import Vocabulary
from serving.errors import UnsupportedOptionError


class ClosedSearch:
    """`defaults` hold what a request leaves unset. There is no published system to follow: every request is answered
    under the serving profile."""

    def __init__(self, labels: tuple[str, ...], defaults: DetectionParams) -> None:
        self._labels = labels
        self._vocabulary = Vocabulary(labels)
        self._defaults = defaults

    async def resolve(self, request: Request, timeout_s: float | None) -> Wanted[DetectionParams]:
        """Raises UnsupportedOptionError for what needs an open vocabulary."""
        del timeout_s  # nothing here takes time
        for given, option in (
            (request.class_agnostic, "class_agnostic"),
            (request.examples, "image_queries"),
        ):
            if given:
                raise UnsupportedOptionError(
                    f"{option} needs a model with an open vocabulary, which this is not",
                    metadata={"option": option},
                )
        mapped = self._vocabulary.map(request.vocabulary) if request.vocabulary else None
        params = replace(
            self._defaults,
            labels=None if mapped is None else frozenset(mapped.claims),
            **{
                name: value
                for name in ("score_threshold", "max_detections", "iou_threshold")
                if (value := getattr(request, name)) is not None
            },
        )
        return Wanted(
            params,
            names=self._labels,
            terms=() if mapped is None else mapped.terms,
            claims=None if mapped is None else mapped.claims,
        )

    async def close(self) -> None:
        """There is nothing to give back."""
