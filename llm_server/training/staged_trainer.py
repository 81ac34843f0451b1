"""What the staged trainings have in common: transformers' Trainer, checkpoints of what is trained alone, and resume.

A checkpoint is what Trainer saves (optimiser, schedule, random state, its own state) beside the trained tensors alone,
and a last empty file that says it is whole: a run that was killed while it wrote one goes on from the one before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from llm_server.training.loss_curve import LossCurve, Step

WHOLE: Final = "whole"

#: Told of each step that is done: (step of the stage, steps of the stage, loss).
Advance = Callable[[int, int, float], None]


class Learner(Protocol):
    """A module that can write and read what it has learnt."""

    def save(self, folder: Path) -> None:
        """Writes the trained tensors to ``folder``, exactly."""

    def restore(self, folder: Path) -> None:
        """Reads what :meth:`save` wrote."""


class StagedTrainer(Trainer):
    """Trainer of one stage of a :class:`Learner`, which is a module too; notes the loss of each step."""

    def __init__(self, model: Any, curve: LossCurve, **kwargs: Any) -> None:
        super().__init__(model=model, **kwargs)
        # The mean over micro-batches is taken by the base class.
        self.model_accepts_loss_kwargs = False
        self._learner: Learner = model
        self._curve = curve
        self._parts: list[tuple[str, float, str]] = []

    def note(self, task: str, loss: float, digest: str) -> None:
        """One micro-batch is done: what it trained, its share of the step's loss, a digest of what it read."""
        self._parts.append((task, loss, digest))
        if len(self._parts) == self.current_gradient_accumulation_steps:
            read = hashlib.sha256("".join(part[2] for part in self._parts).encode()).hexdigest()
            total = sum(part[1] for part in self._parts)
            self._curve.add(Step(self.state.global_step + 1, task, total, read))
            self._parts = []

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self._learner.save(Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._learner.restore(Path(resume_from_checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        (folder / WHOLE).touch()


class Reports(TrainerCallback):
    """Tells of each step that is done."""

    def __init__(self, curve: LossCurve, advance: Advance) -> None:
        self._curve = curve
        self._advance = advance

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Passes on the step's loss."""
        self._advance(state.global_step, state.max_steps, self._curve.steps[-1].loss)


def last_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of the highest step, or None."""
    found = [path.parent for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{WHOLE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def begun_curve(folder: Path, checkpoint: Path | None) -> LossCurve:
    """The loss curve of the stage in ``folder``, cut after the step of the checkpoint that is gone on from."""
    curve = LossCurve(folder / "losses.jsonl")
    curve.begin(0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2]))
    return curve


def stage_arguments(
    folder: Path,
    *,
    steps: int,
    learning_rate: float,
    final_rate: float,
    warmup: int,
    accumulation: int,
    save_steps: int,
    seed: int,
    on_gpu: bool,
) -> TrainingArguments:
    """AdamW (no weight decay, gradients clipped at 1) under a cosine from ``learning_rate`` to ``final_rate``.

    The data set gives whole micro-batches, in order; on a GPU the arithmetic is bfloat16.
    """
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulation,
        learning_rate=learning_rate,
        warmup_steps=warmup,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": final_rate},
        adam_beta2=0.99,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        logging_steps=10,
        save_strategy="steps",
        save_steps=save_steps,
        save_total_limit=2,
        train_sampling_strategy="sequential",
        report_to=["tensorboard"] if find_spec("tensorboard") else [],
        disable_tqdm=True,
        seed=seed,
        data_seed=seed,
        remove_unused_columns=False,
        label_names=[],
        dataloader_num_workers=0,
        dataloader_pin_memory=on_gpu,
    )


def run_trainer(trainer: StagedTrainer, checkpoint: Path | None) -> None:
    """Trains to the end, from ``checkpoint`` if there is one.

    Raises:
        ValueError: there is more than one GPU to use.
    """
    if trainer.args.n_gpu > 1:
        raise ValueError("training uses one GPU; hide the others with CUDA_VISIBLE_DEVICES")
    # Trainer says what it logs on standard output, which belongs to the command.
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def reporting(
    curve: LossCurve, advance: Advance, callbacks: Sequence[TrainerCallback]
) -> list[TrainerCallback]:
    """The callbacks of a stage: the report of each step, then the caller's."""
    return [Reports(curve, advance), *callbacks]
