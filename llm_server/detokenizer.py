"""Token ids to text, one at a time, never half a character.

A byte-level vocabulary splits characters anywhere, so tokens are turned into bytes and a decoder keeps the bytes of an
unfinished character until the rest of it has come. Bytes that can never become a character turn into U+FFFD as soon as
that is certain, and at the end of the text at the latest.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Detokenizer:
    """Decodes one sequence of tokens."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        """``token_bytes[i]`` are the bytes of token ``i``: empty for control tokens, which have no text."""
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The characters that ``token`` completed, perhaps none."""
        return self._decoder.decode(self._token_bytes[token])

    def flush(self) -> str:
        """The sequence has ended: U+FFFD if it broke off within a character, else nothing."""
        return self._decoder.decode(b"", final=True)


def byte_level_alphabet() -> dict[str, int]:
    """The characters that a byte-level vocabulary writes for the 256 bytes, by character.

    Printable Latin-1 stands for itself; the other bytes, in order, for the characters from U+0100 on (the table that
    GPT-2 introduced and that byte-level tokenizers have kept).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(0x100 + position): byte for position, byte in enumerate(others)})
    return table
