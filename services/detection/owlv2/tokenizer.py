"""From phrases to token ids, with the tokenizer file of the exported checkpoint: CLIP's byte-pair encoding.

Reads what `tokenizers` reads; transformers is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from serving.engine import EngineError

Tokens = tuple[int, ...]
"""Ids of one phrase, beginning and end included, not padded."""


class UnreadablePhraseError(Exception):
    """A phrase that the network cannot read as a whole; the text says why, for whoever wrote the phrase."""


class PhraseTokenizer:
    """`max_tokens`: the most that the network reads of a phrase. Raises EngineError for a file that is no tokenizer."""

    def __init__(self, file: Path, *, max_tokens: int, begin_id: int, end_id: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises Exception itself
            raise EngineError(f"{file.name}: this is no tokenizer: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.max_tokens = max_tokens
        self._begin, self._end = begin_id, end_id

    def read(self, phrases: Sequence[str]) -> list[Tokens | UnreadablePhraseError]:
        """The tokens of every phrase, or why it cannot be read: too long, empty, or with a mark of the network's own in
        it. A phrase is never cut: half of it may mean something else."""
        return [self._judged(tuple(one.ids)) for one in self._tokenizer.encode_batch(list(phrases))]

    def _judged(self, ids: Tokens) -> Tokens | UnreadablePhraseError:
        if len(ids) > self.max_tokens:
            return UnreadablePhraseError(f"it is {len(ids)} tokens long, the model reads {self.max_tokens}")
        if len(ids) <= 2:
            return UnreadablePhraseError("there is no word in it")
        if ids.count(self._begin) != 1 or ids.count(self._end) != 1:
            return UnreadablePhraseError("it holds a mark that the model keeps for itself")
        return ids


def padded(phrases: Sequence[Tokens], length: int) -> NDArray[np.int64]:
    """(N, length) int64, 0 behind the end."""
    ids = np.zeros((len(phrases), length), np.int64)
    for row, tokens in zip(ids, phrases, strict=True):
        row[: len(tokens)] = tokens
    return ids
