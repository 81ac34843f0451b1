"""A random model of the right shape, with its own tokenizer and adapters: for tests and dry runs that need no weights.

What it says is noise, but the same noise for the same seed, and every part of the serving path is the real one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llm_server.prompts import chatml

BASE_NAME = "tiny-llama"
_fast_tokenizer: Any = PreTrainedTokenizerFast  # untyped
_END_OF_TEXT = "<|endoftext|>"
_SAMPLE = (
    "The image includes (#1 person) [0.00, 0.16, 0.29, 0.88].",
    "How many people are in the picture?",
    "user system",
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with ChatML's control tokens and a few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = [_END_OF_TEXT, chatml.START, chatml.END]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SAMPLE, trainer)
    fast: PreTrainedTokenizerFast = _fast_tokenizer(
        tokenizer_object=tokenizer,
        bos_token=chatml.START,
        eos_token=chatml.END,
        additional_special_tokens=[_END_OF_TEXT],
    )
    return fast


def tiny_model(vocabulary: int, *, seed: int = 0) -> LlamaForCausalLM:
    """A random Llama in float32: 2 layers of width 32, 4 heads over 2 key-value heads, 512 positions."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.train(False)
    return model


def save_tiny_adapter(
    folder: Path, vocabulary: int, *, seed: int, rank: int = 4, base: str = BASE_NAME
) -> Path:
    """Write a random adapter for :func:`tiny_model` to ``folder`` as peft saves it, and return ``folder``."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(tiny_model(vocabulary), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    config.base_model_name_or_path = base
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    return folder
