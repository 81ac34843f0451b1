"""Makes text from outside harmless before it becomes part of a prompt.

What a caller types, what a sign in a photo says and what a vocabulary calls its objects are words, never control
tokens and never a new turn. Three shapes are broken, by replacing single characters with look-alikes that no Unicode
normalisation turns back, so that a person still reads the same thing:

    <image>  </s>  <|im_start|>  <unk>      anything in angle brackets without a space   ‹image›  ‹/s›  ‹|im_start|›
    [UNUSED_TOKEN_146]  [INST]  [/INST]     a word in square brackets                    (UNUSED_TOKEN_146)  (INST)
    USER:  assistant :                      a role with a colon                          USER -  assistant -

Shapes are looked for in a skeleton of the text: every character in its compatibility form (full-width and mathematical
letters become plain ones), invisible characters left out. `＜image＞` or an `<im age>` with a zero-width space inside
is found like `<image>`. Tokenizing the text with control tokens switched off remains the model server's own lock;
this one holds for any tokenizer, and for the text as people and logs see it.
Pure: standard library only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

MAX_LINE_CHARACTERS: Final = 80
"""Longest line of text read in a picture, and longest name, that goes into a prompt."""

_TAG = re.compile(r"<[^<>\s]+>")
_OPEN_TAG = re.compile(r"<[|/]")
_BRACKETED = re.compile(r"\[[^\[\]\s]*[^\W\d_][^\[\]\s]*\]")
_OPEN_TOKEN = re.compile(r"\[/?UN", re.IGNORECASE)
_ROLE = re.compile(r"(?<![^\W_])(?:user|assistant|system|human)\s*(:)", re.IGNORECASE)

_INVISIBLE: Final = frozenset(
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u3164\uffa0"
) | frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
"""Characters without a shape that are not in the categories Cc and Cf."""
_REMOVED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
"""Control characters but line break and tab, lone surrogates, and what makes text look other than it reads."""
_MARKS = re.compile(r"[<\[:]")


def neutralise(text: str) -> str:
    """Text of a caller, on any number of lines, that can no longer hold a control token or open a turn.

    Line breaks and tabs stay; other control characters, text-reordering characters and lone surrogates go.
    Applying it twice changes nothing more.
    """
    kept = _REMOVED.sub("", text)
    while (broken := _break(kept)) != kept:
        kept = broken
    return kept


def neutralise_line(text: str, *, limit: int = MAX_LINE_CHARACTERS) -> str:
    """A line read in a picture, or a name: as `neutralise`, on one line, of at most `limit` characters.

    Runs of white space (line breaks too) become one space, none is left at the ends; what is too long ends in `…`.

    Raises:
        ValueError: `limit` is below 1.
    """
    if limit < 1:
        raise ValueError(f"a line needs room for a character, not {limit}")
    line = " ".join(neutralise(" ".join(text.split())).split())
    return line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"


def _skeleton(text: str) -> tuple[str, Sequence[int]]:
    """Compatibility form without invisible characters, and for each of its characters the place it came from."""
    if text.isascii():
        return text, range(len(text))
    characters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        if character in _INVISIBLE or unicodedata.category(character) == "Cf":
            continue
        form = unicodedata.normalize("NFKC", character)
        characters.append(form)
        places.extend([place] * len(form))
    return "".join(characters), places


def _break(text: str) -> str:
    """One round: every shape found in the skeleton loses its brackets or its colon."""
    skeleton, places = _skeleton(text)
    if not _MARKS.search(skeleton):
        return text
    out = list(text)
    for match in _TAG.finditer(skeleton):
        out[places[match.start()]] = "‹"
        out[places[match.end() - 1]] = "›"
    for match in _OPEN_TAG.finditer(skeleton):
        out[places[match.start()]] = "‹"
    for match in _BRACKETED.finditer(skeleton):
        out[places[match.start()]] = "("
        out[places[match.end() - 1]] = ")"
    for match in _OPEN_TOKEN.finditer(skeleton):
        out[places[match.start()]] = "("
    for match in _ROLE.finditer(skeleton):
        out[places[match.start(1)]] = " -"
    return "".join(out)
