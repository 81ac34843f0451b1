"""Conversations as token ids for CoLLaVO and MoAI, with the image positions open.

The published systems tokenise system line, picture and turns as one text, so here too: what comes from outside is made
harmless before (:func:`llm_server.prompts.internlm.plain`), and the control tokens are counted after, as a tokenizer
that normalises text may read one where none was spelled.
"""

from __future__ import annotations

from collections.abc import Sequence

from llm_server.prompting import invalid
from llm_server.prompts import chatml, internlm
from llm_server.prompts.image_span import image_span
from llm_server.prompts.intern_tokenizer import InternTokenizer
from llm_server.prompts.internlm import Template
from llm_server.tokenizer import PromptTooManyTokens


class InternChat:
    """Tokenises for one model. Thread-safe: nothing changes after construction."""

    def __init__(self, tokenizer: InternTokenizer, *, image_tokens: int) -> None:
        """``image_tokens`` positions stand for a picture. Raises ValueError for a vocabulary without turn markers."""
        self._tokenizer = tokenizer
        self._image_tokens = image_tokens
        self._control = tokenizer.control_ids
        self._longest = tokenizer.longest_piece
        # Not of the placeholder: no answer holds it, as the output head has no row for it.
        self.token_bytes = tokenizer.piece_bytes()[:-1]
        ends = tokenizer.encode(internlm.TURN_END, bos=False)
        if ends[-1] not in self._control:
            raise ValueError(f"the vocabulary has no {internlm.TURN_END}")
        self.eos_id, self.turn_end_id = tokenizer.eos_id, ends[-1]

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end an answer (serving profile)."""
        return frozenset((self.eos_id, self.turn_end_id))

    @property
    def image_id(self) -> int:
        """Stands at every image position."""
        return self._tokenizer.image_id

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text, without BOS: no control token, whatever it says. Raises InvalidFieldError."""
        return self._plain(text, "text", bos=False)

    def encode_words(self, text: str, *, limit: int) -> list[int]:
        """Ids of an auxiliary text, BOS first.

        Raises PromptTooManyTokens above ``limit``, and InvalidFieldError for control tokens in disguise.
        """
        self._check_length(len(text), limit)
        ids = self._plain(text, "verbalized_text", bos=True)
        if len(ids) > limit:
            raise PromptTooManyTokens(len(ids), limit)
        return ids

    def encode_chat(
        self, turns: Sequence[chatml.Turn], *, limit: int, template: Template = "eval"
    ) -> list[int]:
        """Ids up to where the answer begins, :attr:`image_id` at each image position.

        Raises PromptTooManyTokens above ``limit`` positions (a text that cannot fit is not even tokenised), and
        InvalidFieldError if the roles do not alternate or a text holds control tokens in disguise.
        """
        self._check_length(sum(len(turn.text) for turn in turns), limit - self._image_tokens)
        try:
            text = internlm.conversation([_plain_turn(turn) for turn in turns], template)
            bare = internlm.conversation([chatml.Turn(turn.role, "") for turn in turns], template)
        except ValueError as error:
            raise invalid("turns", "alternate", str(error)) from error
        ids = self._tokenizer.encode(text)
        if self._controls(ids) != self._controls(self._tokenizer.encode(bare)):
            raise invalid("turns", "control_tokens", "a text holds control tokens of the model")
        span = image_span(ids, image_id=self.image_id, image_tokens=self._image_tokens)
        if span.length > limit:
            raise PromptTooManyTokens(span.length, limit)
        return [*ids[: span.start], *[self.image_id] * self._image_tokens, *ids[span.start + 1 :]]

    def _check_length(self, characters: int, limit: int) -> None:
        if characters // self._longest > limit:
            raise PromptTooManyTokens(characters // self._longest, limit)

    def _plain(self, text: str, field: str, *, bos: bool) -> list[int]:
        ids = self._tokenizer.encode(internlm.plain(_written(text)), bos=bos)
        if len(self._controls(ids)) > bos:
            raise invalid(field, "control_tokens", "it holds control tokens of the model")
        return ids

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in self._control]


def _plain_turn(turn: chatml.Turn) -> chatml.Turn:
    return chatml.Turn(turn.role, internlm.plain(_written(turn.text)))


def _written(text: str) -> str:
    """A lone surrogate cannot be written as UTF-8; it can only come from a caller inside the process."""
    return text.encode("utf-8", "replace").decode()
