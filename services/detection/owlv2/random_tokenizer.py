"""A tokenizer in CLIP's form for networks with random weights, where there is no checkpoint to bring one.

Bytes alone would make a phrase of fifteen letters too long for sixteen tokens. So the commonest pairs of the built-in
vocabulary's own words are merged, as byte-pair encoding does, up to the size the network has embeddings for.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from services.detection.owlv2.words import BUILT_IN, read_words

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


def random_tokenizer(size: int) -> CLIPTokenizer:
    """With ids below `size`, the last two the beginning and the end; the same for the same `size`.

    Raises ValueError below 514, which the bytes, within and at the end of a word, and both marks need.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    if size < len(tokens) + 2:
        raise ValueError(f"{size} token ids are too few: bytes and marks need {len(tokens) + 2}")
    merges = []
    for left, right in _pairs(size):
        if len(tokens) == size - 2:
            break
        merges.append((left, right))
        if left + right not in tokens:
            tokens.append(left + right)
    vocabulary = {token: index for index, token in enumerate(tokens)} | {_BEGIN: size - 2, _END: size - 1}
    tokenizer: Any = CLIPTokenizer  # its annotations know merges as lines of text alone
    made: CLIPTokenizer = tokenizer(vocab=vocabulary, merges=merges, pad_token=tokens[0])
    return made


def _pairs(size: int) -> list[tuple[str, str]]:
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=min(size, 4096),
        end_of_word_suffix="</w>",
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Long names count for more: they are the ones that have to fit.
    names = [name.lower() for name in read_words(BUILT_IN) for _ in range(1 + len(name) // 6)]
    tokenizer.train_from_iterator(names, trainer)
    with TemporaryDirectory() as folder:
        tokenizer.save(str(Path(folder, "bpe.json")))
        learned = json.loads(Path(folder, "bpe.json").read_text(encoding="utf-8"))
    return [
        tuple(pair) if isinstance(pair, list) else tuple(pair.split(" "))
        for pair in learned["model"]["merges"]
    ]
