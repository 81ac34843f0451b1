"""A whole run of MoAI's training: both steps, resume, losses before and after, what it leaves in its folder.

checkpoint/                 the checkpoint begun with, compressor, mixers and gates exchanged: what a server loads
trained.safetensors         those tensors alone, float32, by their released keys
run_card.json, loss.png     settings, data hash, versions, losses; the curve
settings.json, stages/      what a run that was cut needs to go on
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import TrainerCallback

from llm_server.models.moai import Moai
from llm_server.training.loss_curve import LossCurve, data_sha256, plot
from llm_server.training.moai_batch import MoaiBatch, MoaiTokenizer, collate_moai
from llm_server.training.moai_checkpoint import write_checkpoint
from llm_server.training.moai_examples import MoaiExample, MoaiExamples
from llm_server.training.moai_model import TENSORS, MoaiLearner, initialise
from llm_server.training.moai_settings import MoaiSettings, check
from llm_server.training.moai_trainer import run_stage
from llm_server.training.run_folder import claim, versions, write_card

#: Share of the loss on examples trained on that must be gone for a run to count as one that learnt.
_LEARNT: Final = 0.1

#: Told of each step: (stage number, its kind, step, steps of the stage, loss).
StepDone = Callable[[int, str, int, int, float], None]


class FrozenPartChanged(RuntimeError):
    """Something that is not to learn has other bytes than before."""


@dataclass(frozen=True)
class MoaiSources:
    """What is trained on, and what is held out from it."""

    train: MoaiExamples
    heldout: MoaiExamples


def train_moai(
    settings: MoaiSettings,
    model: Moai,
    tokenizer: MoaiTokenizer,
    sources: MoaiSources,
    *,
    checkpoint: Path,
    out: Path,
    resume: bool = False,
    step_done: StepDone = lambda number, kind, step, steps, loss: None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Runs both steps and returns the run card, which is written too.

    Args:
        settings: every knob.
        model: loaded from ``checkpoint`` as the settings say; changed in place.
        tokenizer: of the checkpoint.
        sources: examples.
        checkpoint: folder that the model comes from.
        out: folder to write.
        resume: go on with the run in ``out``, if it holds one.
        step_done: for a progress bar.
        callbacks: of transformers' Trainer, beside its own.

    Raises:
        TrainingRefused: see `moai_settings.check`; or ``out`` holds a run and ``resume`` is not set, or one of other
            settings.
        FrozenPartChanged: a frozen tensor is not, bit for bit, what it was.
    """
    check(settings, cuda=torch.cuda.is_available())
    claim(out, settings, resume)
    began, computed = time.monotonic(), time.process_time()
    torch.manual_seed(settings.seed)
    if settings.fresh:
        initialise(model, settings.seed)
    learner = MoaiLearner(model, settings.gate_dtype)

    def collate(examples: Sequence[MoaiExample]) -> MoaiBatch:
        return collate_moai(examples, tokenizer, model.dimensions)

    frozen = learner.frozen_sha256()
    losses = {"before": _losses(learner, settings, sources, collate)}
    curves: list[LossCurve] = []
    for number, stage in enumerate(settings.stages):
        folder = out / "stages" / f"{number}-{stage.kind}"
        if (folder / TENSORS).is_file():
            curves.append(LossCurve(folder / "losses.jsonl"))
            curves[-1].begin(stage.steps)
            learner.restore(folder)
        else:

            def done(step: int, steps: int, loss: float, number: int = number) -> None:
                step_done(number, settings.stages[number].kind, step, steps, loss)

            curves.append(
                run_stage(
                    learner,
                    sources.train,
                    collate,
                    settings,
                    number,
                    folder=folder,
                    advance=done,
                    callbacks=callbacks,
                )
            )
            learner.save(folder)
        losses[f"after_{stage.kind}"] = _losses(learner, settings, sources, collate)
    if learner.frozen_sha256() != frozen:
        raise FrozenPartChanged("a tensor that was to stay as it was has changed")
    learner.save(out)
    write_checkpoint(checkpoint, learner.trained(), out / "checkpoint")
    steps = [one for curve in curves for one in curve.steps]
    last = losses[f"after_{settings.stages[-1].kind}"]
    card = {
        "recipe": "moai-1",
        "settings": asdict(settings),
        "dimensions": asdict(model.dimensions),
        "trained_parameters": sum(value.numel() for value in learner.trained().values()),
        "data_sha256": data_sha256(steps),
        "frozen_sha256": frozen,
        "steps": len(steps),
        "loss": losses,
        "improved": last["seen"] < (1 - _LEARNT) * losses["before"]["seen"],
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(time.process_time() - computed, 1),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "plot": plot(
            [(s.kind, c.steps) for s, c in zip(settings.stages, curves, strict=True)], out / "loss.png"
        ),
    }
    write_card(out, card)
    return card


@torch.no_grad()
def _losses(
    learner: MoaiLearner,
    settings: MoaiSettings,
    sources: MoaiSources,
    collate: Callable[[Sequence[MoaiExample]], MoaiBatch],
) -> dict[str, float]:
    """Mean loss with all experts and the gates: ``seen``, of examples trained on first, and ``heldout``."""
    out = {}
    count = settings.examples or settings.heldout
    for name, source, numbers in (
        ("seen", sources.train, count),
        ("heldout", sources.heldout, settings.heldout),
    ):
        total = sum(float(learner(collate([source.draw(number)]), None)) for number in range(numbers))
        out[name] = round(total / max(1, numbers), 4)
    return out
