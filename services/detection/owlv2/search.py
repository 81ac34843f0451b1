"""A request to OWLv2: words, example pictures, or nothing at all, each into vectors that patches are compared with."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from services.detection.detector import Example, Request, Wanted
from services.detection.owlv2.model import Owlv2Detector, Owlv2Params
from services.detection.owlv2.queries import Float, Queries
from services.detection.owlv2.text import PhraseCache
from services.detection.vocabulary import MappedTerm
from serving.errors import InvalidFieldError
from serving.expert import Stages

_EXAMPLES_KEPT = 256


@dataclass(frozen=True)
class OwnWords:
    """What is looked for where a request brings nothing: a name for every label id, the queries, their version."""

    names: tuple[str, ...]
    queries: Queries
    version: str


@dataclass(frozen=True)
class Defaults:
    """What a request leaves unset. `example_iou`: of searches by picture, whose neighbours all look alike."""

    params: Owlv2Params
    example_iou: float


class OpenSearch:
    """Works a request out with `phrases` and, for example pictures, the image half of the network through `stages`.

    `serving` and `reference` are the defaults of the two profiles.
    """

    def __init__(
        self,
        detector: Owlv2Detector,
        stages: Stages[Any, Any],
        phrases: PhraseCache,
        own: OwnWords,
        *,
        serving: Defaults,
        reference: Defaults,
    ) -> None:
        self._detector, self._stages, self._phrases, self._own = detector, stages, phrases, own
        self._serving, self._reference = serving, reference
        self._examples: OrderedDict[str, Float] = OrderedDict()

    async def resolve(self, request: Request, timeout_s: float | None) -> Wanted[Owlv2Params]:
        """Raises InvalidFieldError for a request that looks for two kinds of things at once, an Image*Error of an
        example picture, and what batchers raise."""
        if bool(request.vocabulary) + request.class_agnostic + bool(request.examples) > 1:
            raise InvalidFieldError(
                "vocabulary, class_agnostic and image_queries exclude each other",
                metadata={"field": "vocabulary"},
            )
        params = self._params(request)
        if request.class_agnostic:
            return Wanted(params, reference=params.reference)
        if request.examples:
            queries = await self._by_example(request.examples, params, timeout_s)
            return Wanted(replace(params, queries=queries), by_example=True, reference=params.reference)
        if not request.vocabulary:
            return Wanted(
                replace(params, queries=self._own.queries),
                names=self._own.names,
                reference=params.reference,
                vocabulary_version=self._own.version,
            )
        encoded = await self._phrases.encode(request.vocabulary, timeout_s)
        terms = tuple(
            MappedTerm(term, (), encoded.unreadable[index])
            if index in encoded.unreadable
            else MappedTerm(term, (index,))
            for index, term in enumerate(request.vocabulary)
        )
        return Wanted(
            replace(params, queries=encoded.queries),
            names=request.vocabulary,
            terms=terms,
            claims={index: index for index in range(len(request.vocabulary))},
            reference=params.reference,
        )

    async def close(self) -> None:
        """Finish what was accepted and give the tower's thread back."""
        await self._phrases.close()

    def _params(self, request: Request) -> Owlv2Params:
        defaults = self._reference if request.reference else self._serving
        params = defaults.params
        iou_threshold = defaults.example_iou if request.examples else params.iou_threshold
        return replace(
            params,
            score_threshold=_chosen(request.score_threshold, params.score_threshold),
            max_detections=int(_chosen(request.max_detections, params.max_detections)),
            iou_threshold=_chosen(request.iou_threshold, iou_threshold),
        )

    async def _by_example(
        self, examples: Sequence[Example], params: Owlv2Params, timeout_s: float | None
    ) -> Queries:
        found = await asyncio.gather(*(self._example(one, params, timeout_s) for one in examples))
        return Queries.of(np.stack(found))

    async def _example(self, example: Example, params: Owlv2Params, timeout_s: float | None) -> Float:
        """What one picture shows; of the last pictures it is remembered, since one is looked for in many others."""
        key = hashlib.sha256(example.picture).hexdigest() + f"{example.box} {params.reference}"
        if key not in self._examples:
            box = None if example.box is None else np.array(example.box, np.float32)
            embedding, _ = await self._stages.run(
                example.picture,
                lambda image: self._detector.preprocess(image, params),
                lambda raw: self._detector.example(raw, box),
                timeout_s,
            )
            self._examples[key] = embedding
            while len(self._examples) > _EXAMPLES_KEPT:
                self._examples.popitem(last=False)
        return self._examples[key]


def _chosen(asked: float | None, default: float) -> float:
    return default if asked is None else asked
