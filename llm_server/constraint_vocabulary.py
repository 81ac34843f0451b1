"""A model's vocabulary as a grammar sees it: bytes by token id, and how forced bytes are cut into tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serving.errors import InvalidFieldError


class Vocabulary:
    """Has the attributes that llguidance asks of a tokenizer. Control tokens have no bytes: no grammar allows them."""

    def __init__(
        self, token_bytes: Sequence[bytes], end_token: int, encode: Callable[[str], list[int]]
    ) -> None:
        """``encode`` is the model's tokeniser for plain text."""
        self.tokens = list(token_bytes)
        self.eos_token_id = end_token
        self.bos_token_id: int | None = None
        self.special_token_ids: list[int] = []
        self._encode = encode
        self._ids = {token: number for number, token in reversed([*enumerate(token_bytes)]) if token}
        self._longest = max((len(token) for token in self._ids), default=0)

    def __call__(self, text: bytes) -> list[int]:
        """``text`` as the model would have read it; where it cannot have read just that, longest tokens first.

        A tokeniser may add a space of its own, take control tokens for something else, or want whole characters.
        """
        try:
            ids = self._encode(text.decode())
        except (UnicodeDecodeError, InvalidFieldError):
            return self._longest_first(text)
        return ids if b"".join(self.tokens[one] for one in ids) == text else self._longest_first(text)

    def _longest_first(self, text: bytes) -> list[int]:
        """Up to a byte that the vocabulary lacks."""
        ids: list[int] = []
        at = 0
        while at < len(text):
            for length in range(min(self._longest, len(text) - at), 0, -1):
                number = self._ids.get(text[at : at + length])
                if number is not None:
                    ids.append(number)
                    at += length
                    break
            else:
                return ids
        return ids
