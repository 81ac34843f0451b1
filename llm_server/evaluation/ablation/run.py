"""Trains and scores the contenders, one after another; each leaves a card, and one that has a card is not run again.

OUT/crayon-both-seed0/card.json      settings, what was measured
OUT/crayon-both-seed0/run/           what dual training leaves, without its checkpoints
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from llm_server.evaluation.ablation.measures import map_items, score_maps, score_tasks
from llm_server.evaluation.ablation.variants import CRAYON, Variant, switches
from llm_server.evaluation.crayon_reading import CrayonReader
from llm_server.evaluation.scene_sight import MapSight
from llm_server.models.crayon_files import FOLDER, load_crayon
from llm_server.training.bases import Base
from llm_server.training.crayon_words import names_by_id
from llm_server.training.dual_run import Sources, train_dual
from llm_server.training.examples import SceneExamples
from llm_server.training.fused_lora import fuse
from llm_server.training.recipe import load_adapters
from llm_server.training.scene_maps import LabelIds
from llm_server.training.scenes import Verbalize

CARD: Final = "card.json"

#: Told of each training step: (steps done of this contender, its loss).
StepDone = Callable[[int, float], None]


class AblationRefused(ValueError):
    """A folder that holds another ablation."""


@dataclass(frozen=True)
class Rig:
    """What all contenders share.

    Attributes:
        load_base: loads the frozen base anew.
        verbalize: how a scene is put into words.
        labels: classes of the map by name.
        n: held-out scenes that each is asked about.
        seed: which.
    """

    load_base: Callable[[], Base]
    verbalize: Verbalize
    labels: LabelIds
    n: int
    seed: int


def run_variant(
    rig: Rig, variant: Variant, out: Path, *, step_done: StepDone = lambda done, loss: None
) -> dict[str, Any]:
    """Trains a contender, scores it and returns its card; one that is in ``out`` already is read.

    Raises:
        AblationRefused: the card there is of other settings.
        TrainingRefused: see :func:`llm_server.training.dual_run.train_dual`.
    """
    folder = out / variant.folder
    asked = json.loads(
        json.dumps({"settings": asdict(variant.settings), "n": rig.n, "evaluation_seed": rig.seed})
    )
    card = read_card(folder)
    if card is not None:
        if card["asked"] != asked:
            raise AblationRefused(f"{folder} was made with other settings: choose another folder")
        return card
    began = time.monotonic()
    run = folder / "run"
    base = rig.load_base()
    before = [sum(s.steps for s in variant.settings.stages[:k]) for k in range(len(variant.settings.stages))]
    trained = train_dual(
        variant.settings,
        base.model,
        base.tokenizer,
        _sources(rig, variant),
        pad_id=base.pad_id,
        out=run,
        resume=True,
        class_names=names_by_id(rig.labels),
        step_done=lambda number, kind, step, steps, loss: step_done(before[number] + step, loss),
    )
    card = {
        "part": variant.part,
        "name": variant.name,
        "scores": _scores(rig, variant, run),
        "last_losses": trained["last_losses"],
        "data_sha256": trained["data_sha256"],
        "seconds": round(time.monotonic() - began, 1),
        "asked": asked,
    }
    partial = folder / f"{CARD}.partial"
    partial.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / CARD)
    # Optimiser states are many times the size of what was trained.
    shutil.rmtree(run / "stages")
    return card


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card of a contender that is done, or None."""
    path = folder / CARD
    if not path.is_file():
        return None
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


def score_given(rig: Rig, adapters: Path, *, base: str) -> dict[str, dict[str, float]]:
    """The crayon ablation of weights that there are: their query tables are switched off, not trained without.

    Raises:
        CrayonRefused: there is no crayon prompt for this base beside the adapters.
    """
    crayon = load_crayon(adapters / FOLDER, base=base)
    loaded, model = _loaded(rig, adapters)
    shape = crayon.shape
    items = map_items(rig.seed, rig.n, rows=shape.rows, columns=shape.columns, labels=rig.labels)
    return {
        queries: score_maps(model, loaded.tokenizer, items, CrayonReader(model, crayon, switches(queries)))
        for queries in CRAYON
    }


def summary(scores: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean of each figure over seeds; ``spread`` is the sample standard deviation, ``values`` is each seed's."""
    keys = list(scores[0])
    values = {key: [one[key] for one in scores] for key in keys}
    return {
        **{key: round(statistics.fmean(values[key]), 4) for key in keys},
        "spread": {key: round(statistics.stdev(values[key]), 4) if len(scores) > 1 else 0.0 for key in keys},
        "values": values,
    }


def _sources(rig: Rig, variant: Variant) -> Sources:
    settings = variant.settings
    return Sources(
        SceneExamples(settings, "train", rig.verbalize, rig.labels),
        SceneExamples(settings, "heldout", rig.verbalize, rig.labels),
    )


def _loaded(rig: Rig, adapters: Path) -> tuple[Base, Any]:
    base = rig.load_base()
    model = load_adapters(base.model, adapters).eval()
    fuse(model)
    return base, model


def _scores(rig: Rig, variant: Variant, run: Path) -> dict[str, float]:
    base, model = _loaded(rig, run)
    grid = variant.settings.crayon
    reader = None
    if variant.settings.crayon_queries != "off":
        crayon = load_crayon(run / FOLDER, base=variant.settings.base.name)
        reader = CrayonReader(model, crayon, variant.switches)
    if variant.part == "crayon":
        items = map_items(rig.seed, rig.n, rows=grid.rows, columns=grid.columns, labels=rig.labels)
        return score_maps(model, base.tokenizer, items, reader)
    sight = None if reader is None else MapSight(reader, grid.rows, grid.columns, rig.labels)
    return score_tasks(model, base.tokenizer, seed=rig.seed, n=rig.n, verbalize=rig.verbalize, sight=sight)
