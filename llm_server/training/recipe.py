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
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import peft
import torch
import transformers

from llm_server import base_model
from llm_server.base_checkpoint import NAME as BASE
from llm_server.prompts.chatml import SYSTEM
from llm_server.training import cards
from llm_server.training.fused_lora import fuse, unfuse
from llm_server.training.lean_layers import leaned
from llm_server.training.mixture import Mixture, Sample, samples
from llm_server.training.packed_attention import register
from llm_server.training.question import TASKS
from llm_server.training.scenes import Verbalize
from llm_server.training.trainer import PackedScenes, run_training, save_adapters

RECIPE: Final = "scenes-2"


@dataclass(frozen=True)
class Stage:
    """A stretch of training with its own mixture, on the stream from scene number ``start`` on."""

    steps: int
    start: int
    mixture: Mixture


@dataclass(frozen=True)
class Recipe:
    """Every knob of the run.

    One schedule runs through all stages: a short warm-up, a constant rate, and a decline over the last ``decline`` of
    all steps. What is learnt late, relations above all, is learnt while the rate is high.

    The first stage teaches everything. The others ask mostly about relations, which are the slowest to be learnt; of
    these the third mostly "what is beside the car?", and the fourth goes back to objects and counts what is not there.
    The last one asks what vehicle, what animal there is: before it a bus among four people was "4 people".
    """

    seed: int = 0
    rank: int = 16
    alpha: int = 32
    questions: int = 12
    max_tokens: int = 900
    scenes_per_step: int = 2
    learning_rate: float = 8e-4
    warmup: int = 20
    decline: float = 0.25
    stages: tuple[Stage, ...] = (
        Stage(steps=240, start=0, mixture=Mixture()),
        Stage(steps=110, start=1000, mixture=Mixture(vl_share=0.85)),
        Stage(steps=120, start=2000, mixture=Mixture(vl_share=0.9, backwards=5.0)),
        Stage(steps=100, start=3000, mixture=Mixture(vl_share=0.65, backwards=2.5, absent_share=0.3)),
        Stage(
            steps=130,
            start=4000,
            mixture=Mixture(vl_share=0.4, backwards=2.5, absent_share=0.25, categories=5.0),
        ),
    )

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)


def scaled(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with ``steps`` steps in all, shared among its stages as before; a stage without steps is left out."""
    left, stages = steps, []
    for number, stage in enumerate(recipe.stages):
        last = number == len(recipe.stages) - 1
        share = left if last else min(left, round(steps * stage.steps / recipe.steps))
        left -= share
        if share:
            stages.append(replace(stage, steps=share))
    return replace(recipe, stages=tuple(stages), warmup=min(recipe.warmup, max(1, steps // 10)))


def adapted(model: Any, *, rank: int, alpha: int) -> Any:
    """A peft model with fresh adapters ``object`` and ``vl`` on every linear layer, both active and summed."""
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(base_model.LINEARS), task_type="CAUSAL_LM"
    )
    adapted_model: Any = peft.get_peft_model(model, config, adapter_name=TASKS[0])
    for task in TASKS[1:]:
        adapted_model.add_adapter(task, config)
    for adapter_config in adapted_model.peft_config.values():
        adapter_config.base_model_name_or_path = BASE
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


class DataHash:
    """Hashes what was asked and answered while it passes through: the data hash of a run."""

    def __init__(self, verbalize: Verbalize) -> None:
        self._verbalize = verbalize
        self._hash = hashlib.sha256()
        self.samples = 0
        self.answers = 0

    def through(self, stream: Iterable[Sample]) -> Iterator[Sample]:
        """The samples, unchanged."""
        for sample in stream:
            row = [sample.task, self._verbalize(sample.scene), [[q.text, q.answer] for q in sample.questions]]
            self._hash.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            self.samples += 1
            self.answers += len(sample.questions)
            yield sample

    @property
    def sha256(self) -> str:
        """Of all samples so far."""
        return self._hash.hexdigest()


def stage_samples(recipe: Recipe, stage: Stage) -> Iterator[Sample]:
    """What one stage trains on."""
    stream = samples(
        recipe.seed,
        stage.mixture,
        questions=recipe.questions,
        start=stage.start,
        together=recipe.scenes_per_step,
    )
    return islice(stream, stage.steps * recipe.scenes_per_step)


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
        checkpoint: folder of the base (:func:`llm_server.base_checkpoint.checkpoint`).
        verbalize: how a scene is put into words; the gateway's own, so that training and serving agree.
        out: folder to write; made if it is not there.
        resume: folder with adapters to go on from instead of fresh ones; only the last stage is run then.
        save_every_s: seconds between intermediate saves of the adapters.
    """
    began, computed = time.monotonic(), time.process_time()
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    if resume is not None:
        recipe = replace(recipe, stages=recipe.stages[-1:])
    tokenizer = base_model.load_tokenizer(checkpoint)
    base = base_model.load_model(checkpoint, "nf4-dequantised", attention=register())
    model = (
        load_adapters(base, resume, trainable=True)
        if resume
        else adapted(base, rank=recipe.rank, alpha=recipe.alpha)
    )
    fuse(model)
    data, of_stages = DataHash(verbalize), [DataHash(verbalize) for _ in recipe.stages]
    stream = chain.from_iterable(
        own.through(stage_samples(recipe, stage)) for own, stage in zip(of_stages, recipe.stages, strict=True)
    )
    with leaned(model):
        progress = run_training(
            model,
            PackedScenes(
                data.through(stream),
                tokenizer,
                verbalize,
                max_tokens=recipe.max_tokens,
                together=recipe.scenes_per_step,
            ),
            folder=out,
            pad_id=tokenizer.eos_token_id,
            steps=recipe.steps,
            learning_rate=recipe.learning_rate,
            warmup=recipe.warmup,
            decline=round(recipe.decline * recipe.steps),
            seed=recipe.seed,
            save_every_s=save_every_s,
        )
    unfuse(model)
    save_adapters(model, out)
    card = run_card(
        recipe,
        data,
        curve=progress.curve,
        stage_hashes=[own.sha256 for own in of_stages],
        seconds=time.monotonic() - began,
        processor_seconds=time.process_time() - computed,
        resumed=resume is not None,
    )
    cards.write(card, out)
    return card


def run_card(
    recipe: Recipe,
    data: DataHash,
    *,
    curve: list[dict[str, float]],
    stage_hashes: list[str],
    seconds: float,
    processor_seconds: float,
    resumed: bool,
) -> dict[str, Any]:
    """What was done, as plain values; ``curve`` is the loss curve, ``stage_hashes`` are of each stage's data."""
    return {
        "recipe": RECIPE,
        **asdict(recipe),
        "steps": recipe.steps,
        "resumed": resumed,
        "base": BASE,
        "trained_on": "nf4 (double quantisation), dequantised to bfloat16",
        "system": SYSTEM,
        "data_sha256": data.sha256,
        "stage_data_sha256": stage_hashes,
        "samples": data.samples,
        "answers": data.answers,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor_seconds, 1),
        "loss": curve,
    }
