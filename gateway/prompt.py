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
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

MAX_LINE_CHARACTERS: Final = 80
"""Longest line of text read in a picture, and longest name, that goes into a prompt."""

_PIECE = re.compile(r"[<>\[\]]|\s+|[^\W\d_]+")
"""What brackets are matched over: a bracket, white space, a run of letters."""
_OPEN_TAG = re.compile(r"<[|/]")
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
    Applying it twice changes nothing more. Takes time in proportion to the text, whatever it holds: about a second
    for a megabyte of nothing but brackets.
    """
    kept = _REMOVED.sub("", text)
    skeleton, places = _skeleton(kept)
    if not _MARKS.search(skeleton):
        return kept
    out = list(kept)
    for at, replacement in (*_brackets(skeleton), *_roles(skeleton)):
        out[places[at]] = replacement
    return "".join(out)


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
        form = _form(character)
        characters.append(form)
        if len(form) == 1:
            places.append(place)
        else:
            places.extend([place] * len(form))
    return "".join(characters), places


@lru_cache(maxsize=8192)
def _form(character: str) -> str:
    """Compatibility form of a character; empty for an invisible one."""
    if character in _INVISIBLE or unicodedata.category(character) == "Cf":
        return ""
    return unicodedata.normalize("NFKC", character)


def _brackets(skeleton: str) -> Iterator[tuple[int, str]]:
    """Brackets to break, with what comes in their place: those of every tag and bracketed word, nested ones too.

    One pass, however deep they are nested: who writes half a million of them costs no more than who writes prose.
    What has white space or a bracket without its other half inside is no tag and no word.
    """
    if "<" not in skeleton and "[" not in skeleton:
        return
    angles: list[int] = []
    squares: list[int] = []
    latest_letters = -1
    for piece in _PIECE.finditer(skeleton):
        at = piece.start()
        match skeleton[at]:
            case "<":
                if _OPEN_TAG.match(skeleton, at):
                    yield at, "‹"
                angles.append(at)
            case ">" if angles and angles[-1] + 1 < at:
                yield angles.pop(), "‹"
                yield at, "›"
            case ">":
                angles.clear()
            case "[":
                if _OPEN_TOKEN.match(skeleton, at):
                    yield at, "("
                squares.append(at)
            case "]" if squares and squares[-1] < latest_letters:
                yield squares.pop(), "("
                yield at, ")"
            case "]":
                squares.clear()
            case other if other.isspace():
                angles.clear()
                squares.clear()
            case _:
                latest_letters = at


def _roles(skeleton: str) -> Iterator[tuple[int, str]]:
    """The colons of roles, with what comes in their place."""
    for match in _ROLE.finditer(skeleton):
        yield match.start(1), " -"
