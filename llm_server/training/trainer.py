"""The training loop: transformers' Trainer over a peft model with two adapters, of which one learns at each step.

Each step draws one task (``object`` or ``vl``); that task's adapter trains, the other is frozen, and both stay in the
forward pass, summed. A step reads a few packed sequences, each one scene with about a dozen questions of that task, and
each on a thread of its own: on a CPU two scenes side by side take less time than two cores on one scene after another,
since what stands between the matrix products is too small to be shared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from llm_server.training.mixture import Sample
from llm_server.training.packed_attention import additive
from llm_server.training.packing import IGNORED, Batch, Packed, Tokenizer, collate, pack
from llm_server.training.question import TASKS, Task
from llm_server.training.scenes import Verbalize
from llm_server.training.side_by_side import side_by_side

#: Steps among whose scenes those of like length are brought together.
WINDOW = 8


class PackedScenes(IterableDataset[tuple[Task, Packed]]):
    """Packed sequences, ``together`` of one task and of like length in a row: what one step reads.

    The stream must hold its samples in such groups too (:func:`llm_server.training.mixture.samples`).
    """

    def __init__(
        self,
        stream: Iterator[Sample],
        tokenizer: Tokenizer,
        verbalize: Verbalize,
        *,
        max_tokens: int,
        together: int = 1,
    ) -> None:
        self._stream = stream
        self._tokenizer = tokenizer
        self._verbalize = verbalize
        self._max_tokens = max_tokens
        self.together = together

    def __iter__(self) -> Iterator[tuple[Task, Packed]]:
        while window := [self._packed(sample) for sample in islice(self._stream, WINDOW * self.together)]:
            yield from alike(window, self.together)

    def _packed(self, sample: Sample) -> tuple[Task, Packed]:
        pairs = [(q.text, q.answer) for q in sample.questions]
        text = self._verbalize(sample.scene)
        return sample.task, pack(self._tokenizer, text, pairs, max_tokens=self._max_tokens)


def alike(rows: list[tuple[Task, Packed]], together: int) -> list[tuple[Task, Packed]]:
    """The rows with the same tasks in the same places, but those of like length in one group of ``together``."""
    if together == 1:
        return rows
    groups = {}
    for task in TASKS:
        mine = sorted((row for row in rows if row[0] == task), key=lambda row: len(row[1]))
        groups[task] = [mine[at : at + together] for at in range(0, len(mine), together)]
        # Longest and shortest in turn, so that the steps of a window do not grow.
        groups[task] = groups[task][::2] + groups[task][1::2][::-1]
    order = [rows[at][0] for at in range(0, len(rows), together)]
    return [row for task in order for row in groups[task].pop()]


class TwoAdapterTrainer(Trainer):
    """Trainer whose step trains the adapter of the batch's task and freezes the other; scenes run side by side."""

    def __init__(self, *args: Any, workers: ThreadPoolExecutor | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._workers = workers

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of each scene, on its own thread; returns the mean of their losses.

        Gradients add up in the parameters under a lock of torch's; for two scenes the sum does not depend on who comes
        first.
        """
        only_trains(model, TASKS[int(inputs["task"])])
        model.train()
        scenes = [Batch(**scene) for scene in inputs["scenes"]]

        def learn(scene: Batch) -> torch.Tensor:
            loss = answer_loss(model, scene) / len(scenes)
            self.accelerator.backward(loss)
            return loss.detach()

        losses = map(learn, scenes) if self._workers is None else self._workers.map(learn, scenes)
        return torch.stack(list(losses)).sum()

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs


def only_trains(model: torch.nn.Module, task: Task) -> None:
    """Lets the adapter ``task`` learn and no other parameter."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(f".{task}." in name)


def answer_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Weighted mean cross-entropy over the positions that have a target; ``model`` is the peft model."""
    causal = model.base_model.model
    hidden = causal.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=additive(batch.mask, causal.dtype),
        use_cache=False,
    ).last_hidden_state
    kept = batch.targets != IGNORED
    logits = causal.lm_head(hidden[kept]).float()
    each = torch.nn.functional.cross_entropy(logits, batch.targets[kept], reduction="none")
    weights = batch.weights[kept]
    return (each * weights).sum() / weights.sum()


class Progress(TrainerCallback):
    """Keeps the loss curve, and saves both adapters every few minutes so that a run cut short is still of use."""

    def __init__(self, folder: Path, *, save_every_s: float) -> None:
        self.curve: list[dict[str, float]] = []
        self._folder = folder
        self._every = save_every_s
        self._started = self._saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Notes step, loss and seconds."""
        if logs and "loss" in logs:
            seconds = time.monotonic() - self._started
            self.curve.append(
                {"step": state.global_step, "loss": round(logs["loss"], 4), "s": round(seconds, 1)}
            )

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Saves when it is time."""
        if time.monotonic() - self._saved >= self._every:
            self._saved = time.monotonic()
            save_adapters(model, self._folder)
            (self._folder / "progress.json").write_text(
                json.dumps({"step": state.global_step, "curve": self.curve}), encoding="utf-8"
            )


def save_adapters(model: Any, folder: Path) -> None:
    """Writes ``folder/object`` and ``folder/vl``: adapter_model.safetensors (bfloat16) and adapter_config.json."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    for name, config in model.peft_config.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        tensors = {key: value.detach().to(torch.bfloat16).contiguous() for key, value in state.items()}
        partial = place / "adapter_model.safetensors.partial"
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.chmod(0o644)
        partial.replace(place / "adapter_model.safetensors")
        config.target_modules = sorted(config.target_modules)
        was = config.inference_mode
        config.inference_mode = True
        config.save_pretrained(place)
        config.inference_mode = was


def run_training(
    model: Any,
    dataset: PackedScenes,
    *,
    folder: Path,
    pad_id: int,
    steps: int,
    learning_rate: float,
    warmup: int,
    decline: int,
    seed: int,
    save_every_s: float,
) -> Progress:
    """Trains ``model`` in place for ``steps`` steps; returns the loss curve's keeper.

    The rate rises for ``warmup`` steps, stays, and over the last ``decline`` falls to nothing as 1 - sqrt (Hägele et
    al., arXiv:2405.18392).
    """

    def one_step(rows: list[tuple[Task, Packed]]) -> dict[str, Any]:
        (task,) = {task for task, _ in rows}
        scenes = [vars(collate([packed], pad_id=pad_id)) for _, packed in rows]
        return {"scenes": scenes, "task": torch.tensor([TASKS.index(task)])}

    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    progress = Progress(folder, save_every_s=save_every_s)
    with side_by_side(dataset.together) as workers:
        trainer = TwoAdapterTrainer(
            model=model,
            workers=workers,
            args=TrainingArguments(
                output_dir=str(folder),
                max_steps=steps,
                per_device_train_batch_size=dataset.together,
                dataloader_drop_last=True,
                learning_rate=learning_rate,
                warmup_steps=warmup,
                lr_scheduler_type="warmup_stable_decay",
                lr_scheduler_kwargs={"num_decay_steps": decline, "decay_type": "1-sqrt"},
                adam_beta2=0.99,
                weight_decay=0.0,
                max_grad_norm=1.0,
                logging_steps=20,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                seed=seed,
                data_seed=seed,
                remove_unused_columns=False,
                dataloader_num_workers=0,
                dataloader_pin_memory=False,
            ),
            train_dataset=dataset,
            data_collator=one_step,
            callbacks=[progress],
        )
        trainer.train()
    return progress
