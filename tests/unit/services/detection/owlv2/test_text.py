"""Phrases through a tower that counts: read once, remembered, dropped in turn, never another's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from services.detection.owlv2.text import PhraseCache, TextTower
from services.detection.owlv2.tokenizer import PhraseTokenizer, UnreadablePhraseError, padded
from services.detection.owlv2.words import BUILT_IN, Words, read_words
from serving.engine import EngineError, FakeEngine, TensorSpec
from serving.errors import DeadlineUnreachableError, ShuttingDownError
from serving.telemetry.metrics import Metrics

WORDS = ("cat", "dog", "bus", "sky", "sea", "red")
LENGTH, BATCH = 5, 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PhraseTokenizer:
    """A word is a token; 1 begins and 2 ends a phrase."""
    ids = {word: index for index, word in enumerate(("<pad>", "<begin>", "<end>", "<unknown>", *WORDS))}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unknown>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="<begin> $A <end>", special_tokens=[("<begin>", 1), ("<end>", 2)]
    )
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(file))
    return PhraseTokenizer(file, max_tokens=LENGTH, begin_id=1, end_id=2)


@pytest.fixture
def tower(tokenizer: PhraseTokenizer) -> Iterator[TextTower]:
    """A phrase's embedding is its tokens."""

    def compute(inputs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float32]]:
        return {"query_embeds": inputs["input_ids"].astype(np.float32)}

    made = TextTower(
        FakeEngine(
            [TensorSpec("input_ids", ("batch", LENGTH), "int64")],
            [TensorSpec("query_embeds", ("batch", LENGTH), "float32")],
            compute,
            max_batch=BATCH,
        ),
        tokenizer,
    )
    yield made
    made.close()


def direction(tokenizer: PhraseTokenizer, phrase: str) -> NDArray[np.float32]:
    (tokens,) = tokenizer.read([phrase])
    assert isinstance(tokens, tuple)
    row = padded([tokens], LENGTH)[0].astype(np.float32)
    return np.asarray(row / np.linalg.norm(row), np.float32)


async def test_a_phrase_is_read_once(tokenizer: PhraseTokenizer, tower: TextTower) -> None:
    metrics = Metrics("detection")
    cache = PhraseCache(tower, tokenizer, size=10, metrics=metrics)
    first = await cache.encode(["cat", "red dog", "cat", "sky"], None)
    assert first.queries.ids.tolist() == [0, 1, 3]
    for row, phrase in zip(first.queries.embeddings, ("cat", "red dog", "sky"), strict=True):
        np.testing.assert_allclose(row, direction(tokenizer, phrase), atol=1e-5)
    assert tower.runs == metrics.value("detection_text_tower_runs_total") == 2, "three phrases, two at a time"
    again = await cache.encode(["sky", "cat"], None)
    np.testing.assert_array_equal(again.queries.embeddings, first.queries.embeddings[[2, 0]])
    assert tower.runs == 2
    assert metrics.value("detection_text_phrases_total", {"cached": "no"}) == 3
    assert metrics.value("detection_text_phrases_total", {"cached": "yes"}) == 2
    assert not first.unreadable
    await cache.close()


async def test_the_least_recently_used_phrase_is_dropped(
    tokenizer: PhraseTokenizer, tower: TextTower
) -> None:
    cache = PhraseCache(tower, tokenizer, size=2, metrics=Metrics("detection"))
    for phrases in (["cat", "dog"], ["cat"], ["bus"]):  # dog goes
        await cache.encode(phrases, None)
    runs = tower.runs
    await cache.encode(["cat"], None)
    assert tower.runs == runs
    await cache.encode(["dog"], None)
    assert tower.runs == runs + 1
    whole = await cache.encode(list(WORDS), None)
    assert whole.queries.ids.tolist() == list(range(len(WORDS)))
    await cache.close()


async def test_many_callers_get_their_own(tokenizer: PhraseTokenizer, tower: TextTower) -> None:
    cache = PhraseCache(tower, tokenizer, size=3, metrics=Metrics("detection"))
    asked = [[WORDS[(first + step) % 6] for step in range(1 + first % 4)] for first in range(12)]
    found = await asyncio.gather(*(cache.encode(phrases, 60) for phrases in asked))
    for phrases, encoded in zip(asked, found, strict=True):
        for row, phrase in zip(encoded.queries.embeddings, phrases, strict=True):
            np.testing.assert_allclose(row, direction(tokenizer, phrase), atol=1e-5)
    await cache.close()


async def test_what_cannot_be_read_says_why_and_takes_no_run(
    tokenizer: PhraseTokenizer, tower: TextTower
) -> None:
    cache = PhraseCache(tower, tokenizer, size=3, metrics=Metrics("detection"))
    encoded = await cache.encode(["cat cat cat cat", "", "dog <end>", "sea"], None)
    assert encoded.queries.ids.tolist() == [3]
    assert encoded.unreadable == {
        0: "it is 6 tokens long, the model reads 5",
        1: "there is no word in it",
        2: "it holds a mark that the model keeps for itself",
    }
    runs = tower.runs
    nothing = await cache.encode([" "], None)
    assert nothing.queries.embeddings.shape == (0, LENGTH)
    assert tower.runs == runs
    await cache.close()


async def test_a_deadline_that_has_passed_and_a_closed_door_are_said(
    tokenizer: PhraseTokenizer, tower: TextTower
) -> None:
    cache = PhraseCache(tower, tokenizer, size=3, metrics=Metrics("detection"))
    with pytest.raises(DeadlineUnreachableError):
        await cache.encode(["cat"], 0)
    await cache.encode(["dog"], 60)
    await cache.encode(["dog"], 0)  # what is at hand costs no time
    await cache.close()
    with pytest.raises(ShuttingDownError):
        await cache.encode(["cat"], None)


def test_a_file_that_is_no_tokenizer_and_a_graph_for_other_tokens_are_refused(
    tmp_path: Path, tokenizer: PhraseTokenizer
) -> None:
    (junk := tmp_path / "junk.json").write_text("{}")
    with pytest.raises(EngineError, match=r"junk\.json"):
        PhraseTokenizer(junk, max_tokens=5, begin_id=1, end_id=2)
    graph = FakeEngine(
        [TensorSpec("input_ids", ("batch", 77), "int64")],
        [TensorSpec("query_embeds", ("batch", 5), "float32")],
        lambda inputs: {},
    )
    with pytest.raises(ValueError, match="for 5 tokens"):
        TextTower(graph, tokenizer)


def test_the_built_in_vocabulary_is_that_of_the_published_system() -> None:
    names = read_words(BUILT_IN)
    assert (len(names), len(set(names))) == (1847, 1732)
    assert names[:3] == ("wall", "building", "sky")
    assert names[846:849] == ("adding machine", "tench", "goldfish")
    assert names[-1] == "toilet paper"


def test_words_have_a_version_and_a_template(tmp_path: Path) -> None:
    (file := tmp_path / "pets.txt").write_text("# pets\ncat\n\n  dog  \ncat\n", encoding="utf-8")
    words = Words("pets", read_words(file), "a photo of a {}.")
    assert words.names == ("cat", "dog", "cat")
    assert words.phrases[1] == "a photo of a dog."
    others = [
        Words("other name", words.names, words.template),
        Words("pets", ("dog", "cat", "cat"), words.template),
        Words("pets", words.names),
    ]
    assert [other.digest == words.digest for other in others] == [True, False, False]
    with pytest.raises(ValueError, match="empty"):
        Words("nothing", ())
    with pytest.raises(ValueError, match="template"):
        Words("pets", ("cat",), "a photo")


def test_what_cannot_be_read_is_an_answer_not_a_failure(tokenizer: PhraseTokenizer) -> None:
    read = tokenizer.read(["cat", ""])
    assert isinstance(read[0], tuple)
    assert isinstance(read[1], UnreadablePhraseError)
