"""What the language model server is asked: the form of the answer, and segments as that server reads them."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.dummies import model_info, reply_to
from gateway.answer import Answerer, generation_request, wanted_segments
from gateway.experts import KIND_OF, Expert, ExpertId, ExpertKind, ExpertOptions, ExpertReply, ImageField
from gateway.perceive import Perceiver
from gateway.telemetry import GatewayMetrics
from gateway.translation import MAX_SEGMENT, Seen
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
from serving.errors import ExpertUnavailableError, InvalidFieldError, PolysightError
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

    def known(self, name: str) -> generation_pb2.ModelInfo | None:
        return self.info if self.is_known else None

    async def find(self, name: str, timeout_s: float) -> generation_pb2.ModelInfo:
        return self.info

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


async def answer(
    models: Models, image: bytes, *, absent: ExpertId | None = None, crayon: int = 35, **fields: Any
) -> list[polysight_pb2.AnswerResponse]:
    experts: dict[ExpertId, Expert] = {
        number: Dummy(kind, absent=number == absent) for number, kind in KIND_OF.items()
    }
    metrics = GatewayMetrics(Metrics("gateway"))
    words = Wording(generation_pb2.VERBALIZATION_FORM_POLYSIGHT, (crayon, crayon))
    perceiver = Perceiver(
        experts, models, default=words, limits=ImageLimits(), budget_s=30, reserve_s=0, metrics=metrics
    )
    answerer = Answerer(perceiver, models, default=words, reserve_s=0, lookup_s=1, metrics=metrics)
    turn = generation_pb2.Turn(role=generation_pb2.ROLE_USER, text="What is it?")
    request = Request(turns=[turn], **fields)
    request.image.data = image
    return [event async for event in answerer.answer(request, None)]


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
    read = moai.prepare(asked, limit=1000).conditioning
    assert isinstance(read, MoaiConditioning)
    assert read.segments is not None
    assert (read.segments == (np.arange(rows * columns) % 13).reshape(rows, columns)).all()
    assert asked.verbalized_text == events[4].verbalization.text
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


async def test_a_constraint_that_the_server_refuses_keeps_its_reason(image: bytes) -> None:
    models = Models(LOOKS)
    models.refuses = InvalidFieldError(
        "constraint.regex: unbalanced", metadata={"field": "constraint.regex", "rule": "regex"}
    )
    with pytest.raises(InvalidFieldError, match="unbalanced") as caught:
        await answer(models, image, constraint=generation_pb2.OutputConstraint(regex="("))
    assert caught.value.metadata["field"] == "constraint.regex"
