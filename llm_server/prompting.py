"""How a request becomes a prompt: what every served model brings for that, and what it tells of itself.

A model has a :class:`Prompting` of its own, because what a request may hold and what a prompt looks like differ. All
of them run on the caller's thread, before anything is queued, and name what is wrong in the words of the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from llm_server.conditioning import Conditioning
from llm_server.models.profiles import ProfileName
from llm_server.prompts import chatml
from polysight.llm.v1 import generation_pb2
from serving.errors import InvalidFieldError, PromptTooLongError, UnsupportedOptionError


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be read, and how it is known that an answer has ended.

    ``tokens`` holds a placeholder at each image position. ``profile`` is None for models without a published system.
    ``trim`` cuts the answer's text as a whole. ``shared``: so many of the first tokens another question in place of
    the last would have too; 0 if unknown.
    """

    tokens: tuple[int, ...]
    end_tokens: frozenset[int]
    conditioning: Conditioning | None = None
    profile: ProfileName | None = None
    trim: Callable[[str], str] = str.strip
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Traits:
    """What a model wants to be given.

    ``crayon_grid`` and ``segment_grid`` are (rows, columns), None for a model that takes none. ``mixer_layers`` are the
    decoder layers whose gates can be overridden. ``profiles``: the default first.
    """

    form: Literal["polysight", "collavo", "moai"] = "polysight"
    uses_image: bool = False
    crayon_grid: tuple[int, int] | None = None
    segment_grid: tuple[int, int] | None = None
    mixer_layers: tuple[int, ...] = ()
    profiles: tuple[ProfileName, ...] = ()


class Chat(Protocol):
    """A model's tokens."""

    @property
    def token_bytes(self) -> tuple[bytes, ...]:
        """What each id stands for in an answer; nothing for control tokens."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end an answer."""

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text."""

    def encode_chat(self, turns: Sequence[chatml.Turn], *, limit: int) -> list[int]:
        """Ids of a conversation up to where the answer begins; raises PromptTooManyTokens."""


class Prompting(Protocol):
    """Makes prompts for one model. Safe from any thread."""

    @property
    def traits(self) -> Traits:
        """What the model wants."""

    def prepare(self, request: generation_pb2.GenerateRequest, *, limit: int) -> Prompt:
        """The prompt of ``request``, of at most ``limit`` positions. Blocks: decodes pictures.

        Raises InvalidFieldError, UnsupportedOptionError, CrayonMalformedError, PromptTooLongError and what a bad
        picture raises.
        """

    def warm_up(self) -> generation_pb2.GenerateRequest:
        """A request that goes through all of the model."""


_ROLES = {generation_pb2.ROLE_USER: "user", generation_pb2.ROLE_ASSISTANT: "assistant"}

#: What only models with auxiliary tokens and mixers understand.
MIXER_FIELDS: Final = ("segments", "auxiliary_sentences", "auxiliary_ablation", "gates")


def read_turns(request: generation_pb2.GenerateRequest, seen: str) -> list[chatml.Turn]:
    """The conversation, with what the experts saw put before the first user turn. Raises InvalidFieldError."""
    turns: list[chatml.Turn] = []
    first_user = True
    for index, turn in enumerate(request.turns):
        if turn.role == generation_pb2.ROLE_USER:
            text = chatml.first_user_text(seen, turn.text) if first_user else turn.text
            first_user = False
            turns.append(chatml.Turn("user", text))
        elif turn.role == generation_pb2.ROLE_ASSISTANT:
            turns.append(chatml.Turn("assistant", turn.text))
        else:
            raise invalid(f"turns[{index}].role", "enum.defined_only", "must be user or assistant")
    if not turns or turns[-1].role != "user":
        raise invalid("turns", "last_is_user", "the last turn must be the user's")
    return turns


def unasked(turns: Sequence[chatml.Turn], question: str) -> list[chatml.Turn]:
    """The conversation without ``question``, which ends its last turn."""
    last = turns[-1].text
    return [*turns[:-1], chatml.Turn("user", last[: len(last) - len(question)])]


def alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many of the first tokens are the same."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def refuse(request: generation_pb2.GenerateRequest, *fields: str) -> None:
    """Raises UnsupportedOptionError for the first of ``fields`` that is set: the model has nothing of the kind."""
    for field in fields:
        if request.HasField(field):
            raise unsupported(field, "this model has nothing of the kind")


def unsupported(option: str, what: str) -> UnsupportedOptionError:
    """The model cannot do what is asked."""
    return UnsupportedOptionError(f"{option}: {what}", metadata={"option": option})


def invalid(field: str, rule: str, what: str) -> InvalidFieldError:
    """A field breaks a rule."""
    return InvalidFieldError(f"{field}: {what}", metadata={"field": field, "rule": rule})


def too_long(tokens: int, limit: int) -> PromptTooLongError:
    """There are ``tokens`` or more; ``limit`` fit."""
    return PromptTooLongError(
        f"there are {tokens} tokens or more; this model takes {limit}",
        metadata={"tokens": str(tokens), "limit": str(limit)},
    )
