"""When an answer counts as right: exact match after a normalisation, per kind of question.

Everything is lower-cased, blanks are collapsed, punctuation at the ends and the words "a", "an", "the" are dropped.
Then, the same for the adapters and for the base model without them, so that a base that knows the answer but says it
in another form is not marked down for the form:

- count, count_category: the first number said, in digits or words ("no", "none" is 0), equals the expected one;
- existence, and wherever a bare yes or a no is expected: the first word is the expected yes or no;
- text: equal after a lead such as "it says:" and after quotation marks are dropped; lines in order;
- where the letter of an option is expected: the letter at the beginning, alone or before the option's words;
- where "I cannot tell" is expected: any words that say so, or where the reason is that something is not there, that;
- everything else: equal to the sentence or to its bare object ("bicycle", also after "it is").
"""

from __future__ import annotations

import re
from typing import Final

from llm_server.evaluation.declines import cannot_tell, says_absent
from llm_server.evaluation.instructions import letter

NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
#: Kinds whose answers are numbers.
COUNTED: Final = ("count", "count_category")
_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b ?")
_NUMBER: Final = re.compile(rf"\b(?:\d+|no|none|{'|'.join(NUMBERS)})\b")
_OPTION: Final = re.compile(r"\s*\(?([A-Z])(?:\)|[.:]|\s*$)")
_LEADS: Final = re.compile(
    r"^(?:it says|text says|text reads|text in (?:picture|image|photo) (?:says|reads|is)|sign says)\s*:?\s*"
)


def normalise(text: str) -> str:
    """Lower case, single blanks, no articles, no punctuation at the ends."""
    text = _ARTICLES.sub("", " ".join(text.lower().split()))
    return text.strip(" .!?\"'“”:;,")


def number(text: str) -> int | None:
    """The first number said, or None."""
    found = _NUMBER.search(text.lower())
    if found is None:
        return None
    word = found.group()
    return 0 if word in ("no", "none") else NUMBERS.index(word) if word in NUMBERS else int(word)


def correct(kind: str, answer: str, expected: str, short: str = "") -> bool:
    """Whether ``answer`` is right for a question of this kind; ``short`` is a barer answer as right as ``expected``.

    Raises:
        ValueError: the expected answer of a count has no number.
    """
    if kind in COUNTED:
        wanted = number(expected)
        if wanted is None:
            raise ValueError(f"no number in the expected answer {expected!r}")
        return number(answer) == wanted
    option = letter(expected)
    if option is not None:
        found = _OPTION.match(answer)
        return found is not None and found.group(1) == option
    said, right = normalise(answer), normalise(expected)
    if kind == "existence" or right == "yes" or _first_word(right) == "no":
        return _first_word(said) == _first_word(right)
    if cannot_tell(expected):
        return cannot_tell(answer) or (says_absent(expected) and says_absent(answer))
    if kind == "text":
        return _text(said) == _text(right)
    said = said.removeprefix("it is ")
    return said == right or (bool(short) and said == normalise(short))


def _first_word(said: str) -> str:
    return re.split(r"[\s,.;:!]", said, maxsplit=1)[0]


def _text(said: str) -> str:
    said = _LEADS.sub("", said)
    return " ".join(re.sub(r"[\"'“”]", "", said).replace(", and ", ", ").split())
