"""Runs one stage with transformers' Trainer: what learns at a step, checkpoints of what is trained, resume.

A checkpoint is what Trainer saves (optimiser, schedule, random state, its own state) beside the trained tensors alone,
and a last empty file that says it is whole: a run that was killed while it wrote one goes on from the one before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from llm_server.training.dual_model import DualModel
from llm_server.training.dual_settings import DualSettings, StageSettings
from llm_server.training.image_packing import ImageBatch, collate_images
from llm_server.training.loss_curve import LossCurve, Step
from llm_server.training.packing import Batch
from llm_server.training.question import TASKS
from llm_server.training.step_plan import MicroBatch, MicroBatches

WHOLE: Final = "whole"

#: Told of each step that is done: (step of the stage, steps of the stage, loss).
Advance = Callable[[int, int, float], None]


class DualTrainer(Trainer):
    """Trainer of a :class:`DualModel` for one stage."""

    def __init__(self, model: DualModel, stage: StageSettings, curve: LossCurve, **kwargs: Any) -> None:
        super().__init__(model=model, **kwargs)
        # The mean over micro-batches is taken by the base class.
        self.model_accepts_loss_kwargs = False
        self._dual = model
        self._stage = stage
        self._curve = curve
        self._parts: list[tuple[str, float, str]] = []

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of a micro-batch, with the part that its task names free to learn."""
        dual = self._dual
        inputs = self._prepare_inputs(inputs)
        task = TASKS[int(inputs["task"])]
        dual.learns(None if self._stage.kind == "cpt" else task, crayon=self._stage.trains_crayon)
        # Features belong to the graph of the backward pass, and the hooks must be there while layers are recomputed.
        rows = dual.rows(as_batch(inputs))
        with dual.within(rows):
            loss: torch.Tensor = super().training_step(model, {**inputs, "rows": rows}, *args, **kwargs)
        self._parts.append((task, float(loss), inputs["digest"]))
        if len(self._parts) == self.current_gradient_accumulation_steps:
            digest = hashlib.sha256("".join(part[2] for part in self._parts).encode()).hexdigest()
            total = sum(part[1] for part in self._parts)
            self._curve.add(Step(self.state.global_step + 1, task, total, digest))
            self._parts = []
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """See :meth:`DualModel.forward`."""
        loss: torch.Tensor = model(as_batch(inputs), inputs["rows"])
        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self._dual.save(Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._dual.restore(Path(resume_from_checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        (folder / WHOLE).touch()


class _Reports(TrainerCallback):
    """Tells of each step that is done."""

    def __init__(self, curve: LossCurve, advance: Advance) -> None:
        self._curve = curve
        self._advance = advance

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Passes on the step's loss."""
        self._advance(state.global_step, state.max_steps, self._curve.steps[-1].loss)


def collate_inputs(micro: Sequence[MicroBatch], *, pad_id: int) -> dict[str, Any]:
    """One micro-batch as flat tensors; ``digest`` is of what it reads.

    Raises:
        ValueError: more than one was given; the sequences of a step are grouped by the plan.
    """
    (task, sequences), *others = micro
    if others:
        raise ValueError("micro-batches are made by the plan, one at a time")
    batch = collate_images(sequences, pad_id=pad_id)
    digest = hashlib.sha256(task.encode())
    for tensor in (batch.text.input_ids, batch.text.targets, batch.classes, batch.numbers):
        digest.update(tensor.numpy().tobytes())
    own = {key: value for key, value in vars(batch).items() if key != "text"}
    return {
        **vars(batch.text),
        **own,
        "task": torch.tensor([TASKS.index(task)]),
        "digest": digest.hexdigest(),
    }


def as_batch(inputs: dict[str, Any]) -> ImageBatch:
    """The batch in the inputs of :func:`collate_inputs`."""
    text = Batch(**{key: inputs[key] for key in Batch.__dataclass_fields__})
    own = {key: inputs[key] for key in ImageBatch.__dataclass_fields__ if key != "text"}
    return ImageBatch(text, **own)


def last_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of the highest step, or None."""
    found = [path.parent for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{WHOLE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


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
    curve = LossCurve(folder / "losses.jsonl")
    curve.begin(0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2]))
    model.may_learn(adapters=stage.kind == "cit", crayon=stage.trains_crayon)
    on_gpu = settings.base.device == "cuda"
    trainer = DualTrainer(
        model,
        stage,
        curve,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=stage.steps,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=settings.batch.accumulation,
            learning_rate=stage.learning_rate,
            warmup_steps=stage.warmup,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr": stage.final_rate},
            adam_beta2=0.99,
            weight_decay=0.0,
            max_grad_norm=1.0,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            logging_steps=10,
            save_strategy="steps",
            save_steps=settings.save_steps,
            save_total_limit=2,
            train_sampling_strategy="sequential",
            report_to=["tensorboard"] if find_spec("tensorboard") else [],
            disable_tqdm=True,
            seed=settings.seed,
            data_seed=settings.seed,
            remove_unused_columns=False,
            label_names=[],
            dataloader_num_workers=0,
            dataloader_pin_memory=on_gpu,
        ),
        train_dataset=data,
        data_collator=lambda micro: collate_inputs(micro, pad_id=pad_id),
        callbacks=[_Reports(curve, advance), *callbacks],
    )
    if trainer.args.n_gpu > 1:
        raise ValueError("dual training uses one GPU; hide the others with CUDA_VISIBLE_DEVICES")
    # Trainer says what it logs on standard output, which belongs to the command.
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return curve
