"""What the language model server is asked: the form of the answer, and segments as that server reads them."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.dummies import model_info, reply_to
from gateway.answer import Answerer, generation_request, options_to_check, wanted_segments
from gateway.experts import KIND_OF, Expert, ExpertId, ExpertKind, ExpertOptions, ExpertReply, ImageField
from gateway.perceive import Perceiver
from gateway.telemetry import GatewayMetrics
from gateway.translation import MAX_SEGMENT, MAX_SENTENCE_BYTES, Seen
from gateway.wording import Wording
from llm_server.intern_chat import InternChat
from llm_server.models.checkpoint import tensor_files
from llm_server.models.checkpoint_dimensions import checkpoint_dimensions
from llm_server.prompts.colour_map import ENTRIES
from llm_server.prompts.intern_tokenizer import InternTokenizer
from llm_server.published_conditioning import MoaiConditioning
from llm_server.published_prompting import MoaiPrompting
from polysight.gateway.v1 import polysight_pb2
from polysight.llm.v1 import generation_pb2
from polysight.vision.v1 import ocr_pb2
from serving.errors import (
    ExpertTimedOutError,
    ExpertUnavailableError,
    InvalidFieldError,
    PolysightError,
)
from serving.field_rules import FieldRules
from serving.image import ImageLimits
from serving.telemetry.metrics import Metrics

MOAI = generation_pb2.VERBALIZATION_FORM_MOAI
SIDE = 60
LOOKS = model_info(
    verbalization_form=MOAI, uses_image=True, uses_segments=True, segment_height=SIDE, segment_width=SIDE
)
WORDS = Wording(MOAI, (35, 35))
Request = polysight_pb2.AnswerRequest


@pytest.fixture(scope="module")
def image() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (10, 20, 90)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def moai(golden_dir: Path) -> MoaiPrompting:
    """What reads requests in a language model server of the smallest MoAI; no weight is loaded."""
    folder = golden_dir / "checkpoints" / "moai-tiny"
    shapes = {key: file.shape for key, file in tensor_files(folder).items()}
    dimensions = checkpoint_dimensions(folder, shapes)
    chat = InternChat(InternTokenizer(folder / "tokenizer.model"), image_tokens=dimensions.vision.tokens)
    return MoaiPrompting(chat, dimensions, ImageLimits())


class Dummy:
    """An expert that sees what the dummies of the mesh see, or is not there."""

    def __init__(self, kind: ExpertKind, *, absent: bool = False) -> None:
        self.kind, self.absent = kind, absent

    async def call(self, image: ImageField, options: ExpertOptions, timeout_s: float) -> ExpertReply:
        if self.absent:
            raise ExpertUnavailableError("not there", metadata={"expert": self.kind.name})
        request: Any = self.kind.options(options)
        request.image.data = image.data
        return ExpertReply(reply_to(self.kind, request))


class Models:
    """One language model, which answers nothing, or refuses."""

    def __init__(self, info: generation_pb2.ModelInfo, *, known: bool = True) -> None:
        self.info, self.is_known = info, known
        self.refuses: PolysightError | None = None
        self.asked: list[generation_pb2.GenerateRequest] = []
        self.checked: list[generation_pb2.CheckOptionsRequest] = []

    def known(self, name: str) -> generation_pb2.ModelInfo | None:
        return self.info if self.is_known else None

    async def find(self, name: str, timeout_s: float) -> generation_pb2.ModelInfo:
        return self.info

    async def check(self, options: generation_pb2.CheckOptionsRequest, timeout_s: float) -> None:
        self.checked.append(options)

    async def generate(
        self, request: generation_pb2.GenerateRequest, timeout_s: float | None
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        self.asked.append(request)
        if self.refuses is not None:
            raise self.refuses
        likeliest = [generation_pb2.TokenLogprob(id=5, logprob=-0.25)]
        token = generation_pb2.Token(text="x", id=5, logprob=-0.25, likeliest=likeliest)
        yield generation_pb2.GenerateResponse(token=token)
        yield generation_pb2.GenerateResponse(done=generation_pb2.Done(text="x"))


class Silent(Models):
    """A language model server that never says what it has."""

    def __init__(self) -> None:
        super().__init__(LOOKS, known=False)

    async def find(self, name: str, timeout_s: float) -> generation_pb2.ModelInfo:
        await asyncio.sleep(timeout_s)
        raise ExpertTimedOutError("nothing", metadata={"expert": "llm_server"})


def perceiving(models: Models, absent: ExpertId | None = None, crayon: int = 35) -> Perceiver:
    experts: dict[ExpertId, Expert] = {
        number: Dummy(kind, absent=number == absent) for number, kind in KIND_OF.items()
    }
    words = Wording(generation_pb2.VERBALIZATION_FORM_POLYSIGHT, (crayon, crayon))
    metrics = GatewayMetrics(Metrics("gateway"))
    return Perceiver(
        experts, models, default=words, limits=ImageLimits(), budget_s=30, reserve_s=0, metrics=metrics
    )


def answering(models: Models, perceiver: Perceiver, crayon: int = 35, lookup_s: float = 1) -> Answerer:
    words = Wording(generation_pb2.VERBALIZATION_FORM_POLYSIGHT, (crayon, crayon))
    metrics = GatewayMetrics(Metrics("gateway"))
    return Answerer(perceiver, models, default=words, reserve_s=0, lookup_s=lookup_s, metrics=metrics)


async def answer(
    models: Models, image: bytes, *, absent: ExpertId | None = None, crayon: int = 35, **fields: Any
) -> list[polysight_pb2.AnswerResponse]:
    answerer = answering(models, perceiving(models, absent, crayon), crayon)
    turn = generation_pb2.Turn(role=generation_pb2.ROLE_USER, text="What is it?")
    request = Request(turns=[turn], **fields)
    request.image.data = image
    return [event async for event in answerer.answer(request, None)]


def conditioning(moai: MoaiPrompting, asked: generation_pb2.GenerateRequest) -> MoaiConditioning:
    """What the server makes of a request besides the conversation."""
    read = moai.prepare(asked, limit=1000).conditioning
    assert isinstance(read, MoaiConditioning)
    return read


def grids(events: list[polysight_pb2.AnswerResponse]) -> list[tuple[int, int]]:
    """Sizes of the grids that the caller gets."""
    reports = [event.expert_report for event in events if event.HasField("expert_report")]
    return [(grid.height, grid.width) for report in reports for grid in report.panoptic.grids]


async def test_a_model_that_looks_at_segments_gets_them_as_its_server_reads_them(
    image: bytes, moai: MoaiPrompting
) -> None:
    rows, columns = moai.traits.segment_grid or (0, 0)
    looks = model_info(
        verbalization_form=MOAI,
        uses_image=True,
        uses_segments=True,
        segment_height=rows,
        segment_width=columns,
    )
    models = Models(looks)
    events = await answer(models, image)
    (asked,) = models.asked
    # Neither the words nor the map are refused there, and the map is what the dummy drew: thirteen segments, one cell
    # after the other.
    read = conditioning(moai, asked)
    assert read.segments is not None
    assert (read.segments == (np.arange(rows * columns) % 13).reshape(rows, columns)).all()
    # Sentence by sentence it is told what the caller reads in one piece.
    joined = generation_pb2.GenerateRequest()
    joined.CopyFrom(asked)
    joined.ClearField("auxiliary_sentences")
    joined.verbalized_text = events[4].verbalization.text
    assert asked.verbalized_text == ""
    assert read.words == conditioning(moai, joined).words
    assert grids(events) == [(35, 35)]


def test_the_largest_segment_with_a_colour_is_the_server_s() -> None:
    assert MAX_SEGMENT == ENTRIES - 1


async def test_a_grid_that_is_the_crayon_s_as_well_stays_in_the_report(image: bytes) -> None:
    models = Models(LOOKS)
    events = await answer(models, image, crayon=SIDE)
    assert len(models.asked[0].segments.segment_ids) == 2 * SIDE * SIDE
    assert grids(events) == [(SIDE, SIDE)]


@pytest.mark.parametrize(
    ("models", "absent"),
    [
        (Models(LOOKS), polysight_pb2.EXPERT_PANOPTIC),
        (Models(model_info(uses_image=True, segment_height=SIDE, segment_width=SIDE)), None),
        (Models(LOOKS, known=False), None),
    ],
    ids=["no panoptic result", "looks at none", "not known in time"],
)
async def test_otherwise_no_segments_are_sent(models: Models, absent: ExpertId | None, image: bytes) -> None:
    events = await answer(models, image, absent=absent)
    assert not models.asked[0].HasField("segments")
    assert events[-1].HasField("done")
    assert grids(events) == ([] if absent else [(35, 35)])


@pytest.mark.parametrize(
    ("uses", "height", "expected"), [(True, 4, (4, 7)), (False, 4, None), (True, 0, None)]
)
def test_what_a_model_says_of_segments(uses: bool, height: int, expected: tuple[int, int] | None) -> None:
    assert wanted_segments(model_info(uses_segments=uses, segment_height=height, segment_width=7)) == expected
    assert wanted_segments(None) is None


@pytest.mark.parametrize(
    ("model", "form"),
    [(LOOKS, generation_pb2.VERBALIZATION_FORM_POLYSIGHT), (model_info(), MOAI)],
    ids=["other words", "another model"],
)
def test_other_words_and_other_models_get_one_text(
    model: generation_pb2.ModelInfo, form: generation_pb2.VerbalizationForm
) -> None:
    asked = generation_request(Request(), [], "Seen.", Seen(), model, Wording(form, (35, 35)), None)
    assert asked.verbalized_text == "Seen."
    assert not asked.HasField("auxiliary_sentences")


def test_a_sentence_too_long_to_stand_alone_goes_with_the_others() -> None:
    crowded = ocr_pb2.RecognizeTextResponse()
    for _ in range(MAX_SENTENCE_BYTES // 80):
        crowded.lines.add(text="ł" * 70, confidence=0.99)
    asked = generation_request(Request(), [], "All.", Seen(ocr=crowded), LOOKS, WORDS, None)
    assert asked.verbalized_text == "All."
    assert not asked.HasField("auxiliary_sentences")


def test_the_longest_sentence_is_the_contract_s() -> None:
    rules = FieldRules()
    assert rules.screen(generation_pb2.AuxiliarySentences(text="x" * MAX_SENTENCE_BYTES)) is None
    assert rules.screen(generation_pb2.AuxiliarySentences(text="x" * (MAX_SENTENCE_BYTES + 1))) is not None


@pytest.mark.parametrize(
    "constraint",
    [
        generation_pb2.OutputConstraint(json_schema='{"type": "integer"}'),
        generation_pb2.OutputConstraint(regex="yes|no"),
        None,
    ],
)
def test_the_form_of_the_answer_goes_on_as_it_came(
    constraint: generation_pb2.OutputConstraint | None,
) -> None:
    request = Request(constraint=constraint, logprobs=0 if constraint else None)
    asked = generation_request(request, [], "", Seen(), LOOKS, WORDS, None)
    assert asked.HasField("constraint") == asked.HasField("logprobs") == (constraint is not None)
    assert constraint is None or asked.constraint == constraint
    assert not asked.HasField("segments")


async def test_log_probabilities_come_through_whole(image: bytes) -> None:
    models = Models(LOOKS)
    events = await answer(models, image, logprobs=1)
    assert models.asked[0].logprobs == 1
    (token,) = [event.token for event in events if event.HasField("token")]
    assert (token.id, token.logprob) == (5, -0.25)
    assert [(one.id, one.logprob) for one in token.likeliest] == [(5, -0.25)]


async def test_the_verbalization_is_in_time_though_the_server_says_nothing(image: bytes) -> None:
    models = Silent()
    answerer = answering(models, perceiving(models), lookup_s=60)
    turn = generation_pb2.Turn(role=generation_pb2.ROLE_USER, text="What is it?")
    request = Request(turns=[turn])
    request.image.data = image
    events = []

    async def listen() -> None:
        async for event in answerer.answer(request, 1.0):
            events.append(event.WhichOneof("event"))

    begun = time.perf_counter()
    with pytest.raises(ExpertTimedOutError, match="llm_server"):
        await listen()
    assert time.perf_counter() - begun < 1.0
    assert events == ["expert_report"] * 4 + ["verbalization"]


async def test_a_perception_does_not_wait_for_the_server_beyond_its_caller_s_deadline(image: bytes) -> None:
    request = polysight_pb2.PerceiveRequest()
    request.image.data = image
    begun = time.perf_counter()
    reply = await perceiving(Silent()).perceive(request, 0.02)
    assert time.perf_counter() - begun < 0.15
    assert len(reply.reports) == 4


async def test_a_long_conversation_is_made_harmless_like_a_short_one(image: bytes) -> None:
    models = Models(LOOKS)
    perceiver = perceiving(models)
    text = "<image> " * 5000
    turn = generation_pb2.Turn(role=generation_pb2.ROLE_USER, text=text)
    request = Request(turns=[turn])
    request.image.data = image
    events = [event async for event in answering(models, perceiver).answer(request, None)]
    assert events[-1].HasField("done")
    assert [turn.text for turn in models.asked[0].turns] == [text.replace("<image>", "‹image›")]
    request.turns.add(role=generation_pb2.ROLE_ASSISTANT, text=text)
    with pytest.raises(InvalidFieldError, match="last one"):
        await anext(answering(models, perceiver).answer(request, None))


ADAPTERS = generation_pb2.AdapterSet(adapters=[generation_pb2.AdapterScale(name="vl")])


@pytest.mark.parametrize(
    "fields",
    [
        {"constraint": generation_pb2.OutputConstraint(regex="a")},
        {"adapters": ADAPTERS, "logprobs": 0, "model": "dummy"},
        {"sampling": generation_pb2.SamplingParameters(beams=2)},
    ],
    ids=["form", "adapters", "beams"],
)
def test_what_only_the_server_can_judge_is_asked_as_it_came(fields: dict[str, Any]) -> None:
    asked = options_to_check(Request(stop=["x"], seed=1, **fields))
    assert asked is not None
    assert asked == generation_pb2.CheckOptionsRequest(**fields)
    assert asked.HasField("logprobs") == ("logprobs" in fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"adapters": generation_pb2.AdapterSet(), "logprobs": 3, "model": "dummy"},
        {"sampling": generation_pb2.SamplingParameters(beams=1, temperature=0.5)},
    ],
    ids=["nothing", "no adapters", "sampling"],
)
def test_what_field_rules_can_judge_is_not(fields: dict[str, Any]) -> None:
    assert options_to_check(Request(**fields)) is None


async def test_a_constraint_that_the_server_refuses_keeps_its_reason(image: bytes) -> None:
    models = Models(LOOKS)
    models.refuses = InvalidFieldError(
        "constraint.regex: unbalanced", metadata={"field": "constraint.regex", "rule": "regex"}
    )
    with pytest.raises(InvalidFieldError, match="unbalanced") as caught:
        await answer(models, image, constraint=generation_pb2.OutputConstraint(regex="("))
    assert caught.value.metadata["field"] == "constraint.regex"
