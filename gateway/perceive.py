"""Asks the experts about a picture and puts what they saw into words: everything up to the language model."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

import structlog

from gateway.budget import expert_budget
from gateway.experts import KIND_OF, Expert, ExpertId, ExpertOptions, ImageField
from gateway.fanout import Call, fan_out
from gateway.llm import LanguageModels, Lookup
from gateway.reports import OUTCOME_NAMES, report, skipped
from gateway.telemetry import GatewayMetrics
from gateway.translation import crayon_maps, seen_in, verbalize
from gateway.wording import Wording, wording
from polysight.common.v1 import image_pb2
from polysight.gateway.v1 import polysight_pb2
from polysight.llm.v1 import generation_pb2
from serving.errors import (
    ImageCorruptError,
    ImageEmptyError,
    ImageTooLargeError,
    ImageUnsupportedFormatError,
    PolysightError,
    error_info,
    reason_name,
)
from serving.image import ImageLimits, read_header
from serving.request_id import current_request_id
from serving.timings import duration

log = structlog.get_logger(__name__)

_IMAGE_ERRORS: Mapping[str, Callable[[str], PolysightError]] = {
    reason_name(kind.reason): kind
    for kind in (ImageCorruptError, ImageEmptyError, ImageTooLargeError, ImageUnsupportedFormatError)
}


# How much longer than the experts, at the most, a perception waits to hear which words the language model wants.
_LOOKUP_WAIT_S: Final = 0.2


class Perceiver:
    """The experts, asked together.

    Args:
        experts: whom to ask, by their number in the contract; one of each kind.
        models: who says which words are wanted.
        default: the words when nobody says.
        limits: what is accepted as an image.
        budget_s: how long to wait for experts when a request does not say.
        reserve_s: of a caller's deadline, what is kept for putting results into words and replying.
        metrics: where it is counted.
    """

    def __init__(
        self,
        experts: Mapping[ExpertId, Expert],
        models: LanguageModels,
        *,
        default: Wording,
        limits: ImageLimits,
        budget_s: float,
        reserve_s: float,
        metrics: GatewayMetrics,
    ) -> None:
        self._experts = {kind: experts[kind] for kind in KIND_OF}
        self._models = models
        self._default = default
        self._limits = limits
        self._budget_s, self._reserve_s = budget_s, reserve_s
        self._metrics = metrics

    async def perceive(
        self, request: polysight_pb2.PerceiveRequest, remaining_s: float | None
    ) -> polysight_pb2.PerceiveResponse:
        """What the experts see; `remaining_s` is until the caller's deadline. Raises Image*Error only."""
        watch = Stopwatch()
        image = self.admit(request.image)
        async with Lookup(self._models, "", self._budget_s) as lookup:
            assumed = wording(request.options, lookup.known, self._default)
            grid = assumed.crayon_grid
            asked = self.reports(
                image, request.options, watch.left_of(remaining_s), self._reserve_s, crayon_grid=grid
            )
            reports: list[polysight_pb2.ExpertReport] = []
            crayon: generation_pb2.CrayonMaps | None = None
            async with aclosing(asked) as incoming:
                async for written in incoming:
                    reports.append(written)
                    if written.HasField("panoptic"):
                        # At once: the others are still looking, so it costs the caller nothing.
                        crayon = crayon_maps(seen_in([written]), grid, assumed.form)
            refuse_bad_image(reports)
            left_s = watch.left_of(remaining_s)
            # What was kept of the caller's deadline is for the reply.
            wait_s = _LOOKUP_WAIT_S if left_s is None else min(_LOOKUP_WAIT_S, left_s / 2)
            words = wording(request.options, await lookup.within(wait_s), self._default)
        reports.sort(key=lambda written: written.expert)
        if words.form != assumed.form:
            # The model's wish came after the panoptic result: its sentence may number otherwise.
            crayon = crayon_maps(seen_in(reports), grid, words.form)
        response = polysight_pb2.PerceiveResponse(
            reports=reports,
            verbalization=verbalize(seen_in(reports), words.form, grid),
            crayon=crayon,
            elapsed=duration(watch()),
            request_id=current_request_id(),
        )
        slowest_s = max(written.elapsed.ToNanoseconds() for written in reports) / 1e9
        self._metrics.on_perceived(watch() - slowest_s)
        return response

    def admit(self, image: image_pb2.Image) -> ImageField:
        """The picture, ready to be sent to anyone; raises Image*Error by its header, before a pixel is decoded."""
        data = image.data
        read_header(data, self._limits)
        return ImageField(data)

    async def reports(
        self,
        image: ImageField,
        options: polysight_pb2.PerceptionOptions,
        remaining_s: float | None,
        reserve_s: float,
        *,
        crayon_grid: tuple[int, int],
        segment_grid: tuple[int, int] | None = None,
    ) -> AsyncGenerator[polysight_pb2.ExpertReport, None]:
        """One report per expert: first of those that are not asked, then of each as it ends.

        Args:
            image: what `admit` gave.
            options: which experts, how long, and what of them.
            remaining_s: until the caller's deadline; None if there is none.
            reserve_s: of which this is kept for what comes after.
            crayon_grid: rows and columns of the index grid wanted of the panoptic expert.
            segment_grid: the same of a second one, if the language model looks at segments.
        """
        wanted_s = options.budget.ToNanoseconds() / 1e9 if options.HasField("budget") else None
        budget_s = expert_budget(wanted_s, self._budget_s, remaining_s, reserve_s)
        asked = set(options.experts) or set(self._experts)
        ask = ExpertOptions(
            tuple(options.vocabulary), options.mask_encoding, crayon_grid, options.profile, segment_grid
        )
        calls = {
            kind: Call(partial(expert.call, image, ask), budget_s)
            for kind, expert in self._experts.items()
            if kind in asked
        }
        async with aclosing(fan_out(calls)) as ended:
            for kind in self._experts:
                if kind not in asked:
                    yield self._noted(skipped(kind), 0.0)
            async for end in ended:
                yield self._noted(report(end), end.elapsed_s)

    def _noted(self, written: polysight_pb2.ExpertReport, elapsed_s: float) -> polysight_pb2.ExpertReport:
        name, outcome = KIND_OF[written.expert].name, OUTCOME_NAMES[written.outcome]
        self._metrics.on_expert(name, outcome, elapsed_s)
        if outcome not in {"ok", "skipped"}:
            log.warning("expert missing", expert=name, outcome=outcome, reason=written.status.message)
        return written


def missing(reports: Iterable[polysight_pb2.ExpertReport]) -> list[ExpertId]:
    """Experts that were asked and gave nothing, in the order of the contract."""
    there = {polysight_pb2.OUTCOME_OK, polysight_pb2.OUTCOME_SKIPPED}
    return sorted(written.expert for written in reports if written.outcome not in there)


def refuse_bad_image(reports: Sequence[polysight_pb2.ExpertReport]) -> None:
    """Raise the Image*Error that experts gave, if none of them could make anything of the picture.

    A header can promise what the pixels do not keep. Then no expert is at fault, and an answer about a picture
    that nobody could open would be invented.
    """
    if any(written.outcome == polysight_pb2.OUTCOME_OK for written in reports):
        return
    for written in reports:
        info = error_info(written.status)
        if info is not None and info.reason in _IMAGE_ERRORS:
            raise _IMAGE_ERRORS[info.reason](written.status.message)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._begun

    def left_of(self, total_s: float | None) -> float | None:
        """What is left of `total_s`, not below zero; None stays None."""
        return None if total_s is None else max(0.0, total_s - self())
