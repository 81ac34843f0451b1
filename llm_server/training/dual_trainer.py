"""Runs one stage of dual training with transformers' Trainer: what learns at a step, what a step reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from llm_server.training.dual_model import DualModel
from llm_server.training.dual_settings import DualSettings, StageSettings
from llm_server.training.image_packing import ImageBatch, collate_images
from llm_server.training.loss_curve import LossCurve
from llm_server.training.packing import Batch
from llm_server.training.question import TASKS, Task
from llm_server.training.side_by_side import side_by_side
from llm_server.training.staged_trainer import (
    Advance,
    StagedTrainer,
    begun_curve,
    last_checkpoint,
    reporting,
    run_trainer,
    stage_arguments,
)
from llm_server.training.step_plan import MicroBatch, MicroBatches


class DualTrainer(StagedTrainer):
    """Trainer of a :class:`DualModel` for one stage."""

    def __init__(
        self,
        model: DualModel,
        stage: StageSettings,
        settings: DualSettings,
        curve: LossCurve,
        workers: ThreadPoolExecutor | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, curve, **kwargs)
        self._dual = model
        self._stage = stage
        self._single = settings.adapter_use == "single"
        self._workers = workers

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of a micro-batch, with the part that its task names free to learn."""
        dual = self._dual
        task: Task = TASKS[int(inputs["task"])]
        learning: Task = TASKS[-1] if self._single else task
        dual.learns(None if self._stage.kind == "cpt" else learning, crayon=self._stage.trains_crayon)
        parts = inputs["parts"]
        if self._workers is None:
            (part,) = parts
            part = self._prepare_inputs(part)
            # Features belong to the graph of the backward pass, and the hooks must know them while layers are
            # computed again.
            rows = dual.rows(as_batch(part))
            with dual.within(rows):
                loss: torch.Tensor = super().training_step(model, {**part, "rows": rows}, *args, **kwargs)
        else:
            model.train()
            share = len(parts) * self.current_gradient_accumulation_steps
            loss = learn_side_by_side(dual, parts, self._workers, self.accelerator.backward, share)
        self.note(task, float(loss), inputs["digest"])
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """See :meth:`DualModel.forward`."""
        loss: torch.Tensor = model(as_batch(inputs), inputs["rows"])
        return loss


def learn_side_by_side(
    dual: DualModel,
    parts: Sequence[dict[str, Any]],
    workers: ThreadPoolExecutor,
    backward: Callable[[torch.Tensor], None],
    share: int,
) -> torch.Tensor:
    """Forward and backward of each part on a thread of its own; the sum of their losses, each divided by ``share``.

    Gradients add up in the parameters under a lock of torch's; for two parts the sum does not depend on who is first.
    """

    def learn(part: dict[str, Any]) -> torch.Tensor:
        batch = as_batch(part)
        rows = dual.rows(batch)
        with dual.within(rows, in_this_thread=True):
            loss: torch.Tensor = dual(batch, rows) / share
            backward(loss)
        return loss.detach()

    return torch.stack(list(workers.map(learn, parts))).sum()


def collate_inputs(micro: Sequence[MicroBatch], *, pad_id: int, parts: int = 1) -> dict[str, Any]:
    """One micro-batch as flat tensors in ``parts`` parts of as many sequences; ``digest`` is of what it reads.

    Raises:
        ValueError: more than one was given; the sequences of a step are grouped by the plan. Or they cannot be shared.
    """
    (task, sequences), *others = micro
    if others:
        raise ValueError("micro-batches are made by the plan, one at a time")
    if len(sequences) % parts:
        raise ValueError(f"{len(sequences)} sequences cannot be shared among {parts}")
    digest = hashlib.sha256(task.encode())
    each = len(sequences) // parts
    made = []
    for at in range(0, len(sequences), each):
        batch = collate_images(sequences[at : at + each], pad_id=pad_id)
        for tensor in (batch.text.input_ids, batch.text.targets, batch.classes, batch.numbers):
            digest.update(tensor.numpy().tobytes())
        own = {key: value for key, value in vars(batch).items() if key != "text"}
        made.append({**vars(batch.text), **own})
    return {"parts": made, "task": torch.tensor([TASKS.index(task)]), "digest": digest.hexdigest()}


def as_batch(inputs: dict[str, Any]) -> ImageBatch:
    """The batch in the inputs of :func:`collate_inputs`."""
    text = Batch(**{key: inputs[key] for key in Batch.__dataclass_fields__})
    own = {key: inputs[key] for key in ImageBatch.__dataclass_fields__ if key != "text"}
    return ImageBatch(text, **own)


def run_stage(
    model: DualModel,
    data: MicroBatches,
    stage: StageSettings,
    settings: DualSettings,
    *,
    folder: Path,
    pad_id: int,
    advance: Advance,
    callbacks: Sequence[TrainerCallback] = (),
) -> LossCurve:
    """Trains ``model`` in place through a stage, from the last whole checkpoint in ``folder`` if there is one."""
    checkpoint = last_checkpoint(folder)
    curve = begun_curve(folder, checkpoint)
    model.may_learn(adapters=stage.kind == "cit", crayon=stage.trains_crayon)
    threads = settings.batch.side_by_side
    with side_by_side(threads) as workers:
        trainer = DualTrainer(
            model,
            stage,
            settings,
            curve,
            workers,
            args=stage_arguments(
                folder,
                steps=stage.steps,
                learning_rate=stage.learning_rate,
                final_rate=stage.final_rate,
                warmup=stage.warmup,
                accumulation=settings.batch.accumulation,
                save_steps=settings.save_steps,
                seed=settings.seed,
                on_gpu=settings.base.device == "cuda",
            ),
            train_dataset=data,
            data_collator=lambda micro: collate_inputs(micro, pad_id=pad_id, parts=threads),
            callbacks=reporting(curve, advance, callbacks),
        )
        run_trainer(trainer, checkpoint)
    return curve
