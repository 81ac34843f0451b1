"""The text tower behind a cache: phrases in, embeddings out, and each phrase read once.

Published code runs the tower on every word for every picture. Here a vocabulary of the server's own is read once and
kept on disk, and phrases of requests are kept in memory, the least recently used dropped first; once warm, a picture
costs no run of the tower, which `text_tower_runs_total` shows.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.detection.owlv2.bundle import QUERY_EMBEDS, TOKENS, Bundle
from services.detection.owlv2.queries import Float, Queries
from services.detection.owlv2.tokenizer import PhraseTokenizer, Tokens, UnreadablePhraseError, padded
from services.detection.owlv2.words import Words
from serving.batcher import Batcher
from serving.engine import Engine
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore

_CALLERS = 128  # whose batches of phrases may wait at once


class TextTower:
    """A text graph as `services.detection.export.export_owlv2` writes it, behind an engine. Blocking, one caller at a
    time. Raises ValueError when the graph does not fit the tokenizer."""

    def __init__(self, engine: Engine, tokenizer: PhraseTokenizer) -> None:
        shapes = {spec.name: spec.shape for spec in (*engine.inputs, *engine.outputs)}
        dimensions = shapes.get(QUERY_EMBEDS, ("?",))[-1]
        if shapes.get(TOKENS, ())[1:] != (tokenizer.max_tokens,) or not isinstance(dimensions, int):
            raise ValueError(
                f"the graph is no text half of OWLv2 for {tokenizer.max_tokens} tokens: {shapes}"
            )
        self.dimensions = dimensions
        self._engine, self._length = engine, tokenizer.max_tokens
        self.runs = 0

    @property
    def max_batch(self) -> int:
        """The most phrases of one run."""
        return self._engine.max_batch

    def encode(self, phrases: Sequence[Tokens]) -> list[Float]:
        """An embedding (D,) of unit length for each phrase, at most `max_batch` of them."""
        self.runs += 1
        embeddings: Float = self._engine.run({TOKENS: padded(phrases, self._length)})[QUERY_EMBEDS]
        return [row.copy() for row in embeddings]  # a view would keep its whole batch in memory

    def warm_up(self) -> None:
        """One run at batch 1 and one at the largest batch."""
        for size in sorted({1, self.max_batch}):
            self.encode([(1, 1, 1)] * size)

    def close(self) -> None:
        """Give the device back."""
        self._engine.close()


def own_queries(
    words: Words, bundle: Bundle, tower: TextTower, tokenizer: PhraseTokenizer, store: WeightStore
) -> Queries:
    """The server's own vocabulary as queries, read once for all processes and kept in `store`.

    Raises ValueError naming the first word that the network cannot read.
    """
    read = tokenizer.read(words.phrases)
    for name, tokens in zip(words.names, read, strict=True):
        if isinstance(tokens, UnreadablePhraseError):
            raise ValueError(f"vocabulary {words.name}: {name!r} cannot be looked for: {tokens}")
    phrases = [tokens for tokens in read if not isinstance(tokens, UnreadablePhraseError)]
    different = list(dict.fromkeys(phrases))

    def build(destination: Path) -> None:
        rows: list[Float] = []
        for first in range(0, len(different), tower.max_batch):
            rows += tower.encode(different[first : first + tower.max_batch])
        with destination.open("wb") as file:
            np.save(file, np.stack(rows))

    kept = store.derive(f"owlv2-{words.name}.npy", key=vocabulary_key(words, bundle), build=build)
    row_of = {tokens: row for row, tokens in enumerate(different)}
    embeddings = np.load(kept)[[row_of[tokens] for tokens in phrases]]
    return Queries.of(embeddings, phrases)


def vocabulary_key(words: Words, bundle: Bundle) -> str:
    """Everything that the embeddings of `words` depend on."""
    return f"{words.digest} {bundle.words_digest}"


@dataclass(frozen=True)
class Encoded:
    """A request's phrases: `queries` over those that can be read, ids counting all; `unreadable`: why, by index."""

    queries: Queries
    unreadable: dict[int, str]


class PhraseCache:
    """Embeddings of phrases, the `size` last used in memory; what is missing is read in batches across requests.

    Belongs to one event loop; the tower runs in a thread of its own.
    """

    def __init__(self, tower: TextTower, tokenizer: PhraseTokenizer, *, size: int, metrics: Metrics) -> None:
        self._tower, self._tokenizer, self._size = tower, tokenizer, size
        self._known: OrderedDict[Tokens, Float] = OrderedDict()
        self._batcher: Batcher[Sequence[Tokens], Sequence[Float]] = Batcher(
            self._run,
            max_batch=tower.max_batch,
            max_queue=_CALLERS,
            cost=len,
            max_cost=tower.max_batch,
        )
        self._phrases = metrics.counter(
            "text_phrases", "Phrases of requests, by whether their embedding was at hand.", ("cached",)
        )
        self._runs = metrics.counter(
            "text_tower_runs", "Batches of requests' phrases that the text tower read."
        )
        metrics.gauge("text_embeddings", "Embeddings of phrases in memory.").set_function(
            lambda: len(self._known)
        )

    async def encode(self, phrases: Sequence[str], timeout_s: float | None) -> Encoded:
        """Embeddings of `phrases`, from memory where they are there.

        Raises DeadlineUnreachableError, QueueFullError, ShuttingDownError, or what the tower raises.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        read = await asyncio.to_thread(self._tokenizer.read, phrases)
        unreadable = {
            index: str(one) for index, one in enumerate(read) if isinstance(one, UnreadablePhraseError)
        }
        readable = {
            index: one for index, one in enumerate(read) if not isinstance(one, UnreadablePhraseError)
        }
        found = self._recall(readable.values())
        missing = [tokens for tokens in dict.fromkeys(readable.values()) if tokens not in found]
        # A batch at a time, so that a long list leaves others their turn; what they read meanwhile is there to take.
        for first in range(0, len(missing), self._tower.max_batch):
            chunk = missing[first : first + self._tower.max_batch]
            found |= self._recall(chunk)
            part = [tokens for tokens in chunk if tokens not in found]
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if part:
                read_now = await self._batcher.submit(part, timeout_s=left)
                for phrase, embedding in zip(part, read_now.result, strict=True):
                    found[phrase] = embedding
                    self._keep(phrase, embedding)
        self._phrases.labels("no").inc(len(missing))
        self._phrases.labels("yes").inc(len(found) - len(missing))
        rows = [found[tokens] for tokens in readable.values()]
        embeddings = np.stack(rows) if rows else np.empty((0, self._tower.dimensions), np.float32)
        queries = Queries.of(embeddings, list(readable.values()))
        named = np.fromiter(readable, np.int64, len(readable))
        return Encoded(Queries(queries.embeddings, named[queries.ids]), unreadable)

    async def close(self) -> None:
        """Finish what was accepted and give the thread back; new phrases are refused as SHUTTING_DOWN."""
        await self._batcher.close()

    def _run(self, parts: Sequence[Sequence[Tokens]]) -> list[list[Float]]:
        """On the tower's thread: the phrases of several requests in one run."""
        self._runs.inc()
        embeddings = iter(self._tower.encode([phrase for part in parts for phrase in part]))
        return [[next(embeddings) for _ in part] for part in parts]

    def _recall(self, phrases: Iterable[Tokens]) -> dict[Tokens, Float]:
        found = {tokens: self._known[tokens] for tokens in phrases if tokens in self._known}
        for tokens in found:
            self._known.move_to_end(tokens)
        return found

    def _keep(self, tokens: Tokens, embedding: Float) -> None:
        self._known[tokens] = embedding
        self._known.move_to_end(tokens)
        while len(self._known) > self._size:
            self._known.popitem(last=False)
