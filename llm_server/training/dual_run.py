"""A whole run of dual training: stages in order, resume, held-out losses, what it leaves in its folder.

object/, vl/, crayon/     what the server loads (bfloat16 safetensors)
run_card.json, loss.png   settings, data hash, versions, losses, held-out figures; the curve
settings.json, stages/    what a run that was cut needs to go on
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from transformers import TrainerCallback

from llm_server.models.crayon_files import CONFIG, CrayonRefused, load_crayon, save_crayon
from llm_server.models.crayon_files import FOLDER as CRAYON_FOLDER
from llm_server.training.crayon_words import begin_at_words
from llm_server.training.dual_model import TENSORS, DualModel, crayon_for
from llm_server.training.dual_schedule import as_begun, seconds_a_step, within_budget
from llm_server.training.dual_settings import DualSettings, StageKind, TrainingRefused, check
from llm_server.training.dual_trainer import as_batch, collate_inputs, run_stage
from llm_server.training.examples import Examples
from llm_server.training.fused_lora import fuse, unfuse
from llm_server.training.lean_layers import lean, unlean
from llm_server.training.loss_curve import LossCurve, data_sha256, plot
from llm_server.training.packing import Tokenizer
from llm_server.training.question import TASKS, Task
from llm_server.training.recipe import adapted, load_adapters
from llm_server.training.run_folder import SETTINGS, adapters_digest, claim, versions, write_card
from llm_server.training.step_plan import MicroBatches
from llm_server.training.trainer import save_adapters

_PLOT_EVERY_S: Final = 30.0


@dataclass(frozen=True)
class Sources:
    """What is trained on, and what is held out from it."""

    train: Examples
    heldout: Examples


#: Told of each step: (stage number, its kind, step, steps of the stage, loss).
StepDone = Callable[[int, str, int, int, float], None]


def train_dual(
    settings: DualSettings,
    model: Any,
    tokenizer: Tokenizer,
    sources: Sources,
    *,
    pad_id: int,
    out: Path,
    resume: bool = False,
    begin_from: Path | None = None,
    class_names: Sequence[str] = (),
    budget_s: float | None = None,
    planned: Callable[[DualSettings], None] = lambda settings: None,
    step_done: StepDone = lambda number, kind, step, steps, loss: None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Runs all stages on the frozen base ``model`` and returns the run card, which is written too.

    Args:
        settings: every knob.
        model: the base, loaded as the settings say; changed in place.
        tokenizer: of the base.
        sources: examples.
        pad_id: token that fills up sequences.
        out: folder to write.
        resume: go on with the run in ``out``, if it holds one.
        begin_from: folder with adapters ``object`` and ``vl`` to go on from, instead of fresh ones, and perhaps with
            the crayon prompt that belongs to them.
        class_names: what a class is called, by label id: a fresh crayon prompt begins at these words. None: at
            random.
        budget_s: seconds that the run may take; its steps are as many as fit, measured on the first ones.
        planned: told of the settings as they are run.
        step_done: for a progress bar.
        callbacks: of transformers' Trainer, beside its own.

    Raises:
        TrainingRefused: see :func:`check`; or ``out`` holds a run and ``resume`` is not set, or one of other settings;
            or the budget is too small; or ``begin_from`` holds no adapters of this base, rank and alpha, or a crayon
            prompt of another shape or with other tables.
    """
    check(settings, cuda=torch.cuda.is_available())
    if begin_from is not None:
        digest = adapters_digest(begin_from, settings.adapters, base=settings.base.name)
        settings = replace(settings, begun_from=digest)
    if budget_s is not None and (out / SETTINGS).is_file():
        settings, budget_s = as_begun(settings, out), None
    if budget_s is None:
        claim(out, settings, resume)
    began, computed = time.monotonic(), time.process_time()
    torch.manual_seed(settings.seed)
    try:
        dual = _dual(model, settings, begin_from)
        if settings.crayon_queries == "off":
            pass
        elif begin_from is not None and (begin_from / CRAYON_FOLDER / CONFIG).is_file():
            _go_on_from(begin_from / CRAYON_FOLDER, dual, settings)
        elif class_names:
            embedding = model.get_input_embeddings().weight
            begin_at_words(dual.crayon, embedding, tokenizer, class_names, seed=settings.seed)
        if budget_s is not None:
            step_s = seconds_a_step(dual, settings, tokenizer, sources.train, pad_id=pad_id)
            settings = within_budget(settings, budget_s - (time.monotonic() - began), step_s)
            claim(out, settings, resume)
        planned(settings)
        card = _run(dual, settings, tokenizer, sources, pad_id, out, step_done, callbacks)
    finally:
        unlean(model)
    card["seconds"] = round(time.monotonic() - began, 1)
    card["processor_seconds"] = round(time.process_time() - computed, 1)
    write_card(out, card)
    return card


def _run(
    dual: DualModel,
    settings: DualSettings,
    tokenizer: Tokenizer,
    sources: Sources,
    pad_id: int,
    out: Path,
    step_done: StepDone,
    callbacks: Sequence[TrainerCallback],
) -> dict[str, Any]:
    """All stages and what they leave; the run card without its times."""
    heldout = {"base": heldout_losses(dual, settings, tokenizer, sources.heldout, pad_id, trained=False)}
    curves: list[LossCurve] = []
    for number, stage in enumerate(settings.stages):
        folder = out / "stages" / f"{number}-{stage.kind}"
        curves.append(LossCurve(folder / "losses.jsonl"))
        if (folder / TENSORS).is_file():
            curves[-1].begin(stage.steps)
            dual.restore(folder)
            continue
        shown = _Shown(out / "loss.png", settings, curves)

        def done(step: int, steps: int, loss: float, number: int = number, shown: _Shown = shown) -> None:
            step_done(number, settings.stages[number].kind, step, steps, loss)
            shown.when_due()

        data = MicroBatches(
            stage,
            settings.batch,
            sources.train,
            tokenizer,
            seed=settings.seed,
            vl_share=settings.vl_share,
            with_maps=settings.crayon_queries != "off",
        )
        curves[-1] = shown.curves[-1] = run_stage(
            dual, data, stage, settings, folder=folder, pad_id=pad_id, advance=done, callbacks=callbacks
        )
        dual.save(folder)
    heldout["trained"] = heldout_losses(dual, settings, tokenizer, sources.heldout, pad_id, trained=True)
    unfuse(dual.adapted)
    save_adapters(dual.adapted, out)
    if settings.crayon_queries != "off":
        save_crayon(
            dual.crayon, out / CRAYON_FOLDER, base=settings.base.name, queries=settings.crayon_queries
        )
    steps = [one for curve in curves for one in curve.steps]
    return {
        "recipe": "dual-1",
        "settings": asdict(settings),
        "data_sha256": data_sha256(steps),
        "steps": len(steps),
        "heldout_loss": heldout,
        "improved": improved(heldout),
        "last_losses": {stage.kind: _last(c) for stage, c in zip(settings.stages, curves, strict=True)},
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "plot": plot(_named(settings, curves), out / "loss.png"),
    }


def improved(heldout: dict[str, dict[str, float]]) -> bool:
    """Whether every held-out loss fell by a tenth at least."""
    return all(heldout["trained"][key] < 0.9 * loss for key, loss in heldout["base"].items())


@torch.no_grad()
def heldout_losses(
    dual: DualModel,
    settings: DualSettings,
    tokenizer: Tokenizer,
    examples: Examples,
    pad_id: int,
    *,
    trained: bool,
) -> dict[str, float]:
    """Mean loss on held-out examples: of both tasks, and of crayon questions that the map alone answers.

    With ``trained`` false it is the base alone: no adapters, and no image positions, as their features are noise until
    they are trained.
    """
    device = next(dual.crayon.parameters()).device
    dual.eval()
    out: dict[str, float] = {}
    columns: list[tuple[str, StageKind, Task]] = [("map", "cpt", TASKS[0]), *((t, "cit", t) for t in TASKS)]
    for key, kind, task in columns:
        if key == "map" and settings.crayon_queries == "off":
            continue
        # What a stage of that kind would read, whether or not there is one.
        stage = replace(settings.stages[-1], kind=kind, trains_crayon=True)
        data = MicroBatches(
            stage,
            settings.batch,
            examples,
            tokenizer,
            seed=settings.seed,
            vl_share=0.5,
            with_maps=settings.crayon_queries != "off",
        )
        total = 0.0
        for number in range(settings.heldout):
            one = data.packed(task, number) if trained else data.without_image(task, number)
            (inputs,) = collate_inputs([(task, [one])], pad_id=pad_id)["parts"]
            batch = as_batch({key: value.to(device) for key, value in inputs.items()})
            rows = dual.rows(batch)
            with dual.within(rows):
                if trained:
                    total += float(dual(batch, rows))
                else:
                    with dual.adapted.disable_adapter():
                        total += float(dual(batch, rows))
        out[key] = round(total / max(1, settings.heldout), 4)
    return out


class _Shown:
    """Draws the curve now and then while a stage runs."""

    def __init__(self, path: Path, settings: DualSettings, curves: list[LossCurve]) -> None:
        self.curves = curves
        self._path = path
        self._settings = settings
        self._last = time.monotonic()

    def when_due(self) -> None:
        """Draws if half a minute has passed."""
        if time.monotonic() - self._last >= _PLOT_EVERY_S:
            self._last = time.monotonic()
            plot(_named(self._settings, self.curves), self._path)


def _dual(model: Any, settings: DualSettings, begin_from: Path | None) -> DualModel:
    if begin_from is None:
        peft_model = adapted(model, rank=settings.adapters.rank, alpha=settings.adapters.alpha)
    else:
        peft_model = load_adapters(model, begin_from, trainable=True)
    for config in peft_model.peft_config.values():
        config.base_model_name_or_path = settings.base.name
    if settings.base.device == "cpu":
        fuse(peft_model)
        lean(peft_model)
    if settings.batch.checkpointing:
        peft_model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return DualModel(peft_model, crayon_for(peft_model, settings.crayon), settings.crayon_queries)


def _go_on_from(folder: Path, dual: DualModel, settings: DualSettings) -> None:
    """Gives the model the crayon prompt of ``folder``. Raises TrainingRefused if it is not what the settings say."""
    try:
        found = load_crayon(folder, base=settings.base.name)
    except CrayonRefused as error:
        raise TrainingRefused(f"{folder} holds no crayon prompt to go on from: {error}") from error
    if (found.shape, found.queries) != (dual.crayon.shape, settings.crayon_queries):
        raise TrainingRefused(
            f"{folder} is {found.shape} with {found.queries} of its tables trained, and the run's crayon prompt is "
            f"{dual.crayon.shape} with {settings.crayon_queries}"
        )
    dual.crayon.load_state_dict({name: value.float() for name, value in found.state_dict().items()})


def _named(settings: DualSettings, curves: Sequence[LossCurve]) -> list[tuple[str, Any]]:
    return [(s.kind, c.steps) for s, c in zip(settings.stages, curves, strict=False)]


def _last(curve: LossCurve, window: int = 20) -> float:
    """Mean loss of the last steps."""
    losses = [one.loss for one in curve.steps[-window:]]
    return round(sum(losses) / max(1, len(losses)), 4)
