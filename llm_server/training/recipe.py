"""The first recipe: two adapters for the embedded base, from generated scenes, on a CPU, seeded.

``train`` is what ``polysight train`` runs. It writes to a folder:

    object/, vl/       adapter_model.safetensors (bfloat16), adapter_config.json
    recipe.json        the run card: seed, steps, data hash, versions, loss curve, wall time
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import peft
import torch
import transformers

from llm_server import base_model
from llm_server.prompts.chatml import SYSTEM
from llm_server.training import cards
from llm_server.training.fused_lora import fuse, unfuse
from llm_server.training.packed_attention import register
from llm_server.training.question import TASKS
from llm_server.training.scenes import Verbalize
from llm_server.training.trainer import PackedScenes, Sample, run_training, samples, save_adapters

RECIPE: Final = "scenes-1"


@dataclass(frozen=True)
class Recipe:
    """Every knob of the run; the defaults are what the shipped adapters were trained with."""

    seed: int = 0
    steps: int = 600
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 8e-4
    warmup: int = 30
    questions: int = 12
    vl_share: float = 0.55
    max_tokens: int = 900
    start: int = 0


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with some knobs set otherwise; raises TypeError for one that there is not."""
    return replace(recipe, **changes)


def adapted(model: Any, *, rank: int, alpha: int) -> Any:
    """A peft model with fresh adapters ``object`` and ``vl`` on every linear layer, both active and summed."""
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(base_model.LINEARS), task_type="CAUSAL_LM"
    )
    adapted_model: Any = peft.get_peft_model(model, config, adapter_name=TASKS[0])
    for task in TASKS[1:]:
        adapted_model.add_adapter(task, config)
    for adapter_config in adapted_model.peft_config.values():
        adapter_config.base_model_name_or_path = base_model.NAME
    adapted_model.base_model.set_adapter(list(TASKS))
    return adapted_model


def load_adapters(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """A peft model with the adapters of ``folder``, both active and summed."""
    adapted_model: Any = peft.PeftModel.from_pretrained(
        model, folder / TASKS[0], adapter_name=TASKS[0], is_trainable=trainable
    )
    for task in TASKS[1:]:
        adapted_model.load_adapter(folder / task, adapter_name=task, is_trainable=trainable)
    adapted_model.base_model.set_adapter(list(TASKS))
    return adapted_model


class Hashed:
    """Passes a stream of samples on and hashes what was asked and answered: the data hash of a run."""

    def __init__(self, stream: Iterator[Sample], verbalize: Verbalize) -> None:
        self._stream = stream
        self._verbalize = verbalize
        self._hash = hashlib.sha256()
        self.samples = 0
        self.answers = 0

    def __iter__(self) -> Hashed:
        return self

    def __next__(self) -> Sample:
        sample = next(self._stream)
        row = [sample.task, self._verbalize(sample.scene), [[q.text, q.answer] for q in sample.questions]]
        self._hash.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.samples += 1
        self.answers += len(sample.questions)
        return sample

    @property
    def sha256(self) -> str:
        """Of all samples passed on so far."""
        return self._hash.hexdigest()


def train(
    recipe: Recipe,
    *,
    checkpoint: Path,
    verbalize: Verbalize,
    out: Path,
    resume: Path | None = None,
    save_every_s: float = 180.0,
) -> dict[str, Any]:
    """Trains both adapters and writes them with their run card to ``out``; returns the card.

    Args:
        recipe: the knobs.
        checkpoint: folder of the base (:func:`llm_server.base_model.checkpoint`).
        verbalize: how a scene is put into words; the gateway's own, so that training and serving agree.
        out: folder to write; made if it is not there.
        resume: folder with adapters to go on from instead of fresh ones.
        save_every_s: seconds between intermediate saves of the adapters.
    """
    began = time.monotonic()
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = base_model.load_tokenizer(checkpoint)
    base = base_model.load_model(checkpoint, "nf4-dequantised", attention=register())
    model = (
        load_adapters(base, resume, trainable=True)
        if resume
        else adapted(base, rank=recipe.rank, alpha=recipe.alpha)
    )
    fuse(model)
    stream = samples(recipe.seed, questions=recipe.questions, vl_share=recipe.vl_share, start=recipe.start)
    hashed = Hashed(islice(stream, recipe.steps), verbalize)
    progress = run_training(
        model,
        PackedScenes(hashed, tokenizer, verbalize, max_tokens=recipe.max_tokens),
        folder=out,
        pad_id=tokenizer.eos_token_id,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        warmup=recipe.warmup,
        seed=recipe.seed,
        save_every_s=save_every_s,
    )
    unfuse(model)
    save_adapters(model, out)
    card = {
        "recipe": RECIPE,
        **asdict(recipe),
        "resumed": resume is not None,
        "base": base_model.NAME,
        "trained_on": "nf4 (double quantisation), dequantised to bfloat16",
        "system": SYSTEM,
        "data_sha256": hashed.sha256,
        "samples": hashed.samples,
        "answers": hashed.answers,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - began, 1),
        "loss": progress.curve,
    }
    cards.write(card, out)
    return card
