"""An answer, from the picture to the last token, as a stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

import grpc

from gateway.llm import LLM_SERVER, LanguageModels, Lookup
from gateway.perceive import Perceiver, Stopwatch, missing, refuse_bad_image
from gateway.prompt import neutralise
from gateway.telemetry import GatewayMetrics
from gateway.translation import (
    Seen,
    auxiliary_sentences,
    crayon_maps,
    seen_in,
    segment_grid,
    verbalize,
)
from gateway.wording import Wording, wording
from polysight.gateway.v1 import polysight_pb2
from polysight.llm.v1 import generation_pb2
from polysight.vision.v1 import panoptic_pb2
from serving.errors import InternalError, InvalidFieldError, PolysightError
from serving.request_id import current_request_id
from serving.timings import duration

# A conversation of so many characters takes about 10 ms to be made harmless, at the worst.
_LONG_CHARACTERS: Final = 10_000

Events = AsyncGenerator[polysight_pb2.AnswerResponse, None]


class Answerer:
    """Experts first, then the language model, over what the experts saw.

    Args:
        perceiver: the experts.
        models: the language models.
        default: the words when no model says what it wants.
        reserve_s: of a caller's deadline, what is kept for the language model.
        lookup_s: how long to wait for what the model wants.
        metrics: where it is counted.
    """

    def __init__(
        self,
        perceiver: Perceiver,
        models: LanguageModels,
        *,
        default: Wording,
        reserve_s: float,
        lookup_s: float,
        metrics: GatewayMetrics,
    ) -> None:
        self._perceiver = perceiver
        self._models = models
        self._default = default
        self._reserve_s, self._lookup_s = reserve_s, lookup_s
        self._metrics = metrics

    async def answer(self, request: polysight_pb2.AnswerRequest, remaining_s: float | None) -> Events:
        """One report per expert, the verbalization, tokens, `done`; `remaining_s` is until the caller's deadline.

        Raises Image*Error, InvalidFieldError, ModelNotFoundError and what the language model server has against the
        options before any expert is asked; what else keeps it from answering after the verbalization. Closing the
        generator ends all work for it.
        """
        watch = Stopwatch()
        turns = await _harmless_beside(request.turns)
        image = self._perceiver.admit(request.image)
        options = request.options
        async with Lookup(self._models, request.model, self._lookup_s) as lookup:
            await self._check(request, watch.left_of(remaining_s))
            grid = wording(options, lookup.known, self._default).crayon_grid
            segment_size = wanted_segments(lookup.known)
            segments: generation_pb2.SegmentGrid | None = None
            reports: list[polysight_pb2.ExpertReport] = []
            asked = self._perceiver.reports(
                image,
                options,
                watch.left_of(remaining_s),
                self._reserve_s,
                crayon_grid=grid,
                segment_grid=segment_size,
            )
            async with aclosing(asked) as incoming:
                async for report in incoming:
                    reports.append(report)
                    if segment_size is not None and report.HasField("panoptic"):
                        segments = segment_grid(seen_in([report]), segment_size)
                        if segment_size != grid:
                            _withhold(report.panoptic, segment_size)
                    yield polysight_pb2.AnswerResponse(expert_report=report)
            refuse_bad_image(reports)
            perceived_s = watch()
            left_s = watch.left_of(remaining_s)
            # The other half is for what is owed to the caller even if nobody says what the model wants.
            model, trouble = await _model(lookup, None if left_s is None else left_s / 2)
        words = wording(options, model, self._default)
        seen = seen_in(reports)
        begun_s = watch()
        verbalization = verbalize(seen, words.form, grid)
        timings = polysight_pb2.AnswerTimings(
            perceive=duration(perceived_s), verbalize=duration(watch() - begun_s)
        )
        yield polysight_pb2.AnswerResponse(verbalization=verbalization)
        if model is None:
            assert trouble is not None  # one of the two is there
            raise trouble
        # Only as large as the model that answers wants it: another may be the default since the experts were asked.
        fitting = segments if segment_size == wanted_segments(model) else None
        asking = generation_request(request, turns, verbalization.text, seen, model, words, fitting)
        last: generation_pb2.Done | None = None
        generating = self._models.generate(asking, watch.left_of(remaining_s))
        async with aclosing(generating) as responses:
            async for response in responses:
                if response.HasField("done"):
                    last = response.done
                    break
                if not timings.HasField("time_to_first_token"):
                    timings.time_to_first_token.CopyFrom(duration(watch()))
                    self._metrics.on_first_token(watch())
                yield polysight_pb2.AnswerResponse(token=response.token)
        if last is None:
            raise InternalError(f"{LLM_SERVER} ended the answer without saying that it is done")
        timings.total.CopyFrom(duration(watch()))
        timings.generation.CopyFrom(last.timings)
        yield polysight_pb2.AnswerResponse(
            done=polysight_pb2.AnswerDone(
                finish_reason=last.finish_reason,
                text=last.text,
                usage=last.usage,
                timings=timings,
                model=last.model,
                adapters=last.adapters,
                missing=missing(reports),
                seed=last.seed,
                request_id=current_request_id(),
            )
        )

    async def _check(self, request: polysight_pb2.AnswerRequest, left_s: float | None) -> None:
        """Ask whether the options would be refused, if they are any that field rules cannot judge.

        A server that does not answer costs no more than half of what is left of the caller's deadline.
        """
        if (asked := options_to_check(request)) is not None:
            await self._models.check(
                asked, self._lookup_s if left_s is None else min(self._lookup_s, left_s / 2)
            )


def options_to_check(request: polysight_pb2.AnswerRequest) -> generation_pb2.CheckOptionsRequest | None:
    """What only the language model server can say yes or no to; None if there is nothing of the kind.

    Most requests hold nothing of the kind, and wait for nobody.
    """
    if not request.HasField("constraint") and not request.adapters.adapters and request.sampling.beams <= 1:
        return None
    return generation_pb2.CheckOptionsRequest(
        model=request.model,
        adapters=request.adapters if request.HasField("adapters") else None,
        sampling=request.sampling if request.HasField("sampling") else None,
        logprobs=request.logprobs if request.HasField("logprobs") else None,
        constraint=request.constraint if request.HasField("constraint") else None,
    )


def harmless(turns: Sequence[generation_pb2.Turn]) -> list[generation_pb2.Turn]:
    """The conversation with every control token in it broken; raises InvalidFieldError if no question ends it."""
    if not turns or turns[-1].role != generation_pb2.ROLE_USER:
        raise InvalidFieldError(
            "turns: the last one must be the user's question",
            metadata={"field": "turns", "rule": "last_is_user"},
        )
    return [generation_pb2.Turn(role=turn.role, text=neutralise(turn.text)) for turn in turns]


def generation_request(
    request: polysight_pb2.AnswerRequest,
    turns: Sequence[generation_pb2.Turn],
    verbalized_text: str,
    seen: Seen,
    model: generation_pb2.ModelInfo,
    words: Wording,
    segments: generation_pb2.SegmentGrid | None,
) -> generation_pb2.GenerateRequest:
    """What the language model server is asked; picture and crayon maps only for a model that looks at them.

    `segments` is as the model wants it, None for one that does not or where nothing is known. Words of the `moai` form
    go to a model of that form sentence by sentence, as it reads them: a missing expert is an empty sentence.
    """
    moai = generation_pb2.VERBALIZATION_FORM_MOAI
    sentences = auxiliary_sentences(seen) if model.verbalization_form == words.form == moai else None
    return generation_pb2.GenerateRequest(
        model=request.model,
        adapters=request.adapters if request.HasField("adapters") else None,
        turns=turns,
        image=request.image if model.uses_image else None,
        verbalized_text=verbalized_text if sentences is None else "",
        auxiliary_sentences=sentences,
        crayon=crayon_maps(seen, words.crayon_grid, words.form) if model.uses_crayon else None,
        sampling=request.sampling if request.HasField("sampling") else None,
        stop=request.stop,
        seed=request.seed if request.HasField("seed") else None,
        logprobs=request.logprobs if request.HasField("logprobs") else None,
        constraint=request.constraint if request.HasField("constraint") else None,
        segments=segments,
    )


def wanted_segments(model: generation_pb2.ModelInfo | None) -> tuple[int, int] | None:
    """Rows and columns of the segment grid that `model` looks at; None if it looks at none, or is not known.

    A model that is not known yet when the experts are asked gets no segments: they cannot be asked twice.
    """
    if model is None or not model.uses_segments or not model.segment_height or not model.segment_width:
        return None
    return model.segment_height, model.segment_width


def _withhold(panoptic: panoptic_pb2.SegmentResponse, size: tuple[int, int]) -> None:
    """Take the grids of `size` out of what the caller gets: half a megabyte that only the model has a use for."""
    for index in reversed(range(len(panoptic.grids))):
        if (panoptic.grids[index].height, panoptic.grids[index].width) == size:
            del panoptic.grids[index]


async def _harmless_beside(turns: Sequence[generation_pb2.Turn]) -> list[generation_pb2.Turn]:
    """As `harmless`; beside the event loop if the conversation is so long that the others would notice."""
    if sum(len(turn.text) for turn in turns) < _LONG_CHARACTERS:
        return harmless(turns)
    return await asyncio.to_thread(harmless, turns)


async def _model(
    lookup: Lookup, wait_s: float | None
) -> tuple[generation_pb2.ModelInfo, None] | tuple[None, Exception]:
    """What the model wants, or why nobody could say: the verbalization is still owed to the caller then."""
    try:
        return await lookup.result(wait_s), None
    except (PolysightError, grpc.RpcError) as error:
        return None, error
