"""Runs one of MoAI's two steps with transformers' Trainer: which experts speak at a step, what a step reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

from llm_server.models.dimensions import MixerDimensions
from llm_server.training.loss_curve import LossCurve
from llm_server.training.moai_batch import MoaiBatch
from llm_server.training.moai_examples import MoaiExample, MoaiExamples
from llm_server.training.moai_model import MoaiLearner, draw_experts
from llm_server.training.moai_settings import MoaiSettings, MoaiStage
from llm_server.training.staged_trainer import (
    Advance,
    StagedTrainer,
    begun_curve,
    last_checkpoint,
    reporting,
    run_trainer,
    stage_arguments,
)


class ExampleBatches(Dataset[list[MoaiExample]]):
    """Micro-batches of a stage by number: each example once, or ``examples`` of them again and again.

    Args:
        examples: where they come from.
        settings: sizes.
        stage: its number; the second one goes on where the first ended.
    """

    def __init__(self, examples: MoaiExamples, settings: MoaiSettings, stage: int) -> None:
        self._examples = examples
        self._settings = settings
        self._length = settings.stages[stage].steps * settings.accumulation
        before = sum(one.steps for one in settings.stages[:stage])
        self._first = before * settings.accumulation * settings.prompts

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> list[MoaiExample]:
        """Micro-batch ``index``; raises IndexError beyond the last."""
        if not 0 <= index < self._length:
            raise IndexError(index)
        start = self._first + index * self._settings.prompts
        numbers = range(start, start + self._settings.prompts)
        cycle = self._settings.examples
        return [self._examples.draw(number % cycle if cycle else number) for number in numbers]


class MoaiTrainer(StagedTrainer):
    """Trainer of a :class:`MoaiLearner` for one stage."""

    def __init__(
        self, model: MoaiLearner, stage: MoaiStage, seed: int, curve: LossCurve, **kwargs: Any
    ) -> None:
        super().__init__(model, curve, **kwargs)
        self._moai = model
        self._stage = stage
        self._draw_seed = seed
        mixer = model.model.dimensions.mixer
        assert isinstance(mixer, MixerDimensions)  # a MoAI has one
        self._layers = mixer.layers

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of a micro-batch, with what the stage lets speak free to learn."""
        drawn = None
        if self._stage.kind == "step1":
            drawn = draw_experts(self._draw_seed, self.state.global_step, self._layers)
            self._moai.learns(drawn)
        batch: MoaiBatch = inputs["batch"]
        loss: torch.Tensor = super().training_step(model, {"batch": batch, "drawn": drawn}, *args, **kwargs)
        self.note(self._stage.kind, float(loss), batch.digest)
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """See :meth:`MoaiLearner.forward`."""
        loss: torch.Tensor = model(inputs["batch"], inputs["drawn"])
        return loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # The model moves what it needs.
        return inputs


def run_stage(
    model: MoaiLearner,
    examples: MoaiExamples,
    collate: Callable[[Sequence[MoaiExample]], MoaiBatch],
    settings: MoaiSettings,
    number: int,
    *,
    folder: Path,
    advance: Advance,
    callbacks: Sequence[TrainerCallback] = (),
) -> LossCurve:
    """Trains ``model`` in place through stage ``number``, from the last whole checkpoint in ``folder`` if any."""
    stage = settings.stages[number]
    checkpoint = last_checkpoint(folder)
    curve = begun_curve(folder, checkpoint)
    model.may_learn(stage.kind)

    def one_batch(micro: Sequence[list[MoaiExample]]) -> dict[str, Any]:
        (examples_of_step,) = micro
        return {"batch": collate(examples_of_step)}

    trainer = MoaiTrainer(
        model,
        stage,
        settings.seed,
        curve,
        args=stage_arguments(
            folder,
            steps=stage.steps,
            learning_rate=stage.learning_rate,
            final_rate=stage.final_rate,
            warmup=stage.warmup,
            accumulation=settings.accumulation,
            save_steps=settings.save_steps,
            seed=settings.seed,
            on_gpu=settings.device == "cuda",
        ),
        train_dataset=ExampleBatches(examples, settings, number),
        data_collator=one_batch,
        callbacks=reporting(curve, advance, callbacks),
    )
    run_trainer(trainer, checkpoint)
    return curve
