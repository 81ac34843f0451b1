"""Prompts of the embedded default: ChatML, with what the experts saw as words before the first question.

Where it has a crayon prompt, maps that came along take image positions at the head of the first user turn, before the
words, as in training (:mod:`llm_server.training.image_packing`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from llm_server.crayon_conditioning import CrayonConditioning
from llm_server.crayon_request import check_crayon
from llm_server.prompting import (
    MIXER_FIELDS,
    Prompt,
    Traits,
    alike,
    read_turns,
    refuse,
    too_long,
    unasked,
    unsupported,
)
from llm_server.tokenizer import ChatTokenizer, PromptTooManyTokens
from polysight.common.v1 import model_pb2
from polysight.llm.v1 import generation_pb2


@dataclass(frozen=True, slots=True)
class CrayonPlace:
    """Grid of the crayon prompt, the position where its image positions begin, and the id that stands there.

    Without ``numbering`` its number table was not trained, and is left out of every request.
    """

    rows: int
    columns: int
    start: int
    placeholder: int
    numbering: bool = True


class ChatPrompting:
    """Prompts of a language model that reads words, and a crayon prompt if it has one."""

    def __init__(self, chat: ChatTokenizer, crayon: CrayonPlace | None = None) -> None:
        self._chat = chat
        self._crayon = crayon

    @property
    def traits(self) -> Traits:
        """See :class:`llm_server.prompting.Prompting`."""
        return Traits(crayon_grid=self._grid)

    @property
    def _grid(self) -> tuple[int, int] | None:
        return None if self._crayon is None else (self._crayon.rows, self._crayon.columns)

    def prepare(self, request: generation_pb2.GenerateRequest, *, limit: int) -> Prompt:
        """See :class:`llm_server.prompting.Prompting`. A picture plays no part; nor do maps without a crayon prompt."""
        refuse(request, *MIXER_FIELDS, *(() if self._crayon else ("crayon_ablation",)))
        if request.profile == model_pb2.PROFILE_REFERENCE or request.prompt_template:
            option = "prompt_template" if request.prompt_template else "profile"
            raise unsupported(option, "this model has no published system to follow")
        seen = "" if request.crayon_ablation.without_text else request.verbalized_text
        maps = self._maps(request)
        cells = 0 if maps is None else maps.image_tokens
        turns = read_turns(request, seen)
        try:
            tokens = self._chat.encode_chat(turns, limit=limit - cells)
        except PromptTooManyTokens as error:
            raise too_long(error.tokens + cells, limit) from error
        # A text may have more tokens than a longer one; this one is compared, not read.
        without = self._chat.encode_chat(unasked(turns, request.turns[-1].text), limit=2 * limit)
        shared = alike(tokens, without)
        if maps is None or self._crayon is None:
            return Prompt(tuple(tokens), self._chat.end_tokens, shared=shared)
        start = self._crayon.start
        image = [self._crayon.placeholder] * cells
        return Prompt(
            (*tokens[:start], *image, *tokens[start:]), self._chat.end_tokens, maps, shared=shared + cells
        )

    def _maps(self, request: generation_pb2.GenerateRequest) -> CrayonConditioning | None:
        """None if there are no image positions. Raises CrayonMalformedError."""
        if not request.HasField("crayon"):
            return None
        classes, numbers = (one.tobytes() for one in check_crayon(request.crayon, self._grid))
        semantic = not request.crayon_ablation.without_semantic
        if self._crayon is None:
            return None
        numbering = self._crayon.numbering and not request.crayon_ablation.without_numbering
        if not (semantic or numbering):
            return None
        digest = hashlib.blake2b(classes + numbers + bytes((semantic, numbering)), digest_size=16).digest()
        return CrayonConditioning(
            digest=digest,
            image_start=self._crayon.start,
            image_tokens=self._crayon.rows * self._crayon.columns,
            classes=classes,
            numbers=numbers,
            semantic=semantic,
            numbering=numbering,
        )

    def warm_up(self) -> generation_pb2.GenerateRequest:
        """See :class:`llm_server.prompting.Prompting`."""
        if self._crayon is None:
            return generation_pb2.GenerateRequest()
        rows, columns = self._crayon.rows, self._crayon.columns
        ones = bytes([1]) * (rows * columns)
        maps = generation_pb2.CrayonMaps(
            height=rows, width=columns, class_indices=ones, instance_ordinals=ones
        )
        return generation_pb2.GenerateRequest(crayon=maps)
