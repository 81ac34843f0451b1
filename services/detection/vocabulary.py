"""A caller's own words on a model with a closed vocabulary: what maps to its labels, and what it cannot see.

A term maps when the whole of it, up to case, article, number and hyphens, is a label ("Bicycles"), an everyday name
of one ("sofa"), or a word for several ("vehicle"); `names.py` holds both tables. Nothing is guessed: "red car" is not
"car", since the model does not see colours, and "helmet" is nothing at all. The reply says so instead of pretending.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.detection.names import GROUPS, IRREGULAR_PLURALS, NAMES


@dataclass(frozen=True)
class MappedTerm:
    """One term of a request, and the model's classes that stand for it, ascending; none if it cannot be seen, and in
    `note`, where there is more to say, why."""

    term: str
    label_ids: tuple[int, ...]
    note: str = ""

    @property
    def visible(self) -> bool:
        """Whether this model can see it at all."""
        return bool(self.label_ids)


@dataclass(frozen=True)
class MappedVocabulary:
    """All terms of a request, in its order, and for each class that was asked for the term that claims it.

    Of several terms that map to one class the most specific claims it (the one with the fewest classes), then the
    first: in ("vehicle", "car") a car belongs to "car", a bus to "vehicle".
    """

    terms: tuple[MappedTerm, ...]
    claims: Mapping[int, int]


class Vocabulary:
    """The labels of a model and the words that mean them.

    `names` maps another name to the label it means, `groups` a word to the labels it covers; entries that name no label
    of this model are left out.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        names: Mapping[str, str] = NAMES,
        groups: Mapping[str, Sequence[str]] = GROUPS,
    ) -> None:
        ids = {label: index for index, label in enumerate(labels)}
        self._meanings: dict[str, tuple[int, ...]] = {}
        for word, members in groups.items():
            if covered := tuple(sorted(ids[label] for label in members if label in ids)):
                self._meanings[_normal(word)] = covered
        for word, label in names.items():
            if label in ids:
                self._meanings[_normal(word)] = (ids[label],)
        for label, index in ids.items():
            self._meanings[_normal(label)] = (index,)

    def map_term(self, term: str) -> MappedTerm:
        """What `term` means to this model."""
        word = _normal(term)
        for form in (word, *_singulars(word)):
            if form in self._meanings:
                return MappedTerm(term, self._meanings[form])
        return MappedTerm(term, ())

    def map(self, terms: Sequence[str]) -> MappedVocabulary:
        """What each of `terms` means to this model, and which of them claims which class."""
        mapped = tuple(self.map_term(term) for term in terms)
        claims: dict[int, int] = {}
        for index in sorted(range(len(mapped)), key=lambda index: (len(mapped[index].label_ids), index)):
            for label in mapped[index].label_ids:
                claims.setdefault(label, index)
        return MappedVocabulary(mapped, claims)


def _normal(term: str) -> str:
    """Lower case, single spaces for white space, hyphens and underscores, no article in front, no full stop behind."""
    text = unicodedata.normalize("NFKC", term).casefold()
    text = re.sub(r"[\s_-]+", " ", text).strip(" .")
    return re.sub(r"^(a|an|the) (?=.)", "", text)


def _singulars(word: str) -> list[str]:
    """What a plural may be the plural of; only forms that are in a table count, so guessing too many does no harm."""
    head, _, last = word.rpartition(" ")
    forms = []
    if last in IRREGULAR_PLURALS:
        forms.append(IRREGULAR_PLURALS[last])
    if last.endswith("ies"):
        forms.append(last[:-3] + "y")
    if last.endswith("ves"):
        forms += [last[:-3] + "f", last[:-3] + "fe"]
    if last.endswith("es"):
        forms.append(last[:-2])
    if last.endswith("s") and not last.endswith("ss"):
        forms.append(last[:-1])
    return [f"{head} {form}".strip() for form in forms]
