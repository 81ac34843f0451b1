"""A conversation as token ids, and ids as bytes.

Template and text are kept apart until after tokenisation: only the template's own control tokens become control ids.
Whatever a caller, a sign in a photo or an earlier answer says is tokenised as plain text, so that ``<|im_end|>`` in it
is ten characters and never the end of a turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer, decoders

from llm_server.detokenizer import byte_level_alphabet
from llm_server.prompts import chatml

# Stands for the text of a turn while the template is rendered; texts take its place after the split.
_PLACE = re.compile("\0([0-9]+)\0")


class PretrainedTokenizer(Protocol):
    """What is used of a transformers fast tokenizer."""

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The tokenizer itself."""

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the control tokens."""

    @property
    def eos_token_id(self) -> int | None:
        """What ends a text."""


class PromptTooManyTokens(ValueError):
    """The prompt does not fit. ``tokens`` is how many it has, or a lower bound when that was enough to know."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"the prompt has {tokens} tokens, but there is room for {limit}")
        self.tokens = tokens
        self.limit = limit


class ChatTokenizer:
    """Tokenises ChatML conversations for one model. Thread-safe: nothing changes after construction."""

    def __init__(self, tokenizer: PretrainedTokenizer) -> None:
        """Raises :class:`ValueError` if the vocabulary is not byte-level or lacks the control tokens of ChatML."""
        plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        plain.encode_special_tokens = True
        plain.no_truncation()
        plain.no_padding()
        if not isinstance(plain.decoder, decoders.ByteLevel):
            raise ValueError(f"the vocabulary is not byte-level: its decoder is {plain.decoder!r}")
        self._plain = plain
        self._control = {token: self._id_of(token) for token in (chatml.START, chatml.END)}
        for token, number in self._control.items():
            if number in self.encode_text(token):
                raise ValueError(f"{token} in a text would be read as a control token")
        ends = {*self._control.values(), tokenizer.eos_token_id}
        self.end_tokens = frozenset(number for number in ends if number is not None)
        self.token_bytes = self._bytes_of_tokens(frozenset(tokenizer.all_special_ids))
        self._longest_token = max(len(token) for token in self.token_bytes)

    def _id_of(self, token: str) -> int:
        number = self._plain.token_to_id(token)
        if number is None:
            raise ValueError(f"the vocabulary has no {token}")
        return int(number)

    def _bytes_of_tokens(self, control: frozenset[int]) -> tuple[bytes, ...]:
        alphabet = byte_level_alphabet()
        table = [b""] * (max(self._plain.get_vocab(with_added_tokens=True).values()) + 1)
        for token, number in self._plain.get_vocab(with_added_tokens=True).items():
            if number in control:
                continue
            if all(character in alphabet for character in token):
                table[number] = bytes(alphabet[character] for character in token)
            else:
                table[number] = token.encode()
        return tuple(table)

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text: no control token, whatever it says."""
        # A lone surrogate cannot be written as UTF-8; it can only come from a caller inside the process.
        ids: list[int] = self._plain.encode(
            text.encode("utf-8", "replace").decode(), add_special_tokens=False
        ).ids
        return ids

    def encode_chat(self, turns: Sequence[chatml.Turn], *, limit: int) -> list[int]:
        """Ids of the rendered conversation, up to where the assistant begins.

        Raises :class:`PromptTooManyTokens` above ``limit`` tokens; a text that cannot fit is not even tokenised.
        """
        at_least = sum(len(turn.text) for turn in turns) // self._longest_token
        if at_least > limit:
            raise PromptTooManyTokens(at_least, limit)
        places = [chatml.Turn(turn.role, f"\0{index}\0") for index, turn in enumerate(turns)]
        ids: list[int] = []
        for part in re.split(f"({re.escape(chatml.START)}|{re.escape(chatml.END)})", chatml.render(places)):
            if part in self._control:
                ids.append(self._control[part])
            elif part:
                ids += self.encode_text(_PLACE.sub(lambda match: turns[int(match[1])].text, part))
        if len(ids) > limit:
            raise PromptTooManyTokens(len(ids), limit)
        return ids
