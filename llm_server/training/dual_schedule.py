"""How many steps a time budget has room for, measured on the run's own first sequences.

On two cores of the kind that the shipped adapters were trained on (AMX, bfloat16) a scene of 547 tokens takes 1.6 to
1.7 s, two at a time. One of the dual run has 610 on average (counted over 240), its 144 image positions among them, and
the crayon prompt's branches beside. The 2200 steps of `EMBEDDED`, two scenes each, are reckoned at 2.2 s a scene: 9700
of the 10 800 seconds that three hours have. No full run has been timed.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from llm_server.training.dual_model import DualModel
from llm_server.training.dual_settings import DualSettings, StageSettings, TrainingRefused
from llm_server.training.dual_trainer import as_batch, collate_inputs, learn_side_by_side
from llm_server.training.examples import Examples
from llm_server.training.packing import Tokenizer
from llm_server.training.run_folder import SETTINGS
from llm_server.training.side_by_side import side_by_side
from llm_server.training.step_plan import MicroBatches

#: Of a budget, what goes into steps; the rest is for loading, held-out losses, checkpoints, and a busier machine.
_STEPS_SHARE: Final = 0.85
_WARM_UP: Final = 1


def within_budget(settings: DualSettings, budget_s: float, step_s: float) -> DualSettings:
    """The settings with as many steps as fit into ``budget_s`` at ``step_s`` a step, shared among stages as before.

    Raises:
        TrainingRefused: the budget has no room for a step of each stage.
    """
    steps = int(budget_s * _STEPS_SHARE / step_s)
    if steps < len(settings.stages):
        raise TrainingRefused(f"{budget_s / 60:.0f} minutes have no room for steps of {step_s:.1f} s")
    stages = []
    for stage in settings.stages:
        share = max(1, steps * stage.steps // settings.steps)
        warmup = min(stage.warmup, max(1, share // 10))
        stages.append(replace(stage, steps=share, warmup=warmup))
    return replace(settings, stages=tuple(stages))


def seconds_a_step(
    dual: DualModel,
    settings: DualSettings,
    tokenizer: Tokenizer,
    examples: Examples,
    *,
    pad_id: int,
    steps: int = 4,
) -> float:
    """Mean seconds of forward and backward over the first steps of the last stage; the model is left as it was.

    Measured on the CPU or GPU that the run is to use, without the optimiser's own time, which is small beside it.
    """
    stage, batch = settings.stages[-1], settings.batch
    data = MicroBatches(
        replace(stage, steps=max(stage.steps, steps + _WARM_UP)),
        batch,
        examples,
        tokenizer,
        seed=settings.seed,
        vl_share=settings.vl_share,
        with_maps=settings.crayon_queries != "off",
    )
    taken = 0.0
    with side_by_side(batch.side_by_side) as workers:
        for index in range((steps + _WARM_UP) * batch.accumulation):
            task, sequences = data[index]
            dual.learns(task, crayon=stage.trains_crayon)
            parts = collate_inputs([(task, sequences)], pad_id=pad_id, parts=batch.side_by_side)["parts"]
            began = time.perf_counter()
            _once(dual, parts, workers)
            if index >= _WARM_UP * batch.accumulation:
                taken += time.perf_counter() - began
    dual.zero_grad(set_to_none=True)
    return taken / steps


def as_begun(settings: DualSettings, out: Path) -> DualSettings:
    """The settings with the stages of the run in ``out``: a budget is measured once, when the run begins.

    Raises:
        TrainingRefused: what is there is no run of dual training.
    """
    try:
        stages = json.loads((out / SETTINGS).read_text(encoding="utf-8"))["stages"]
        return replace(settings, stages=tuple(StageSettings(**stage) for stage in stages))
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingRefused(f"{out / SETTINGS} is not of a run of dual training: {error!r}") from error


def _once(dual: DualModel, parts: list[dict[str, Any]], workers: ThreadPoolExecutor | None) -> None:
    if workers is not None:
        learn_side_by_side(dual, parts, workers, torch.Tensor.backward, len(parts))
        return
    device = next(dual.crayon.parameters()).device
    (part,) = parts
    batch = as_batch({key: value.to(device) for key, value in part.items()})
    rows = dual.rows(batch)
    with dual.within(rows):
        dual(batch, rows).backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
