"""Every knob of dual training, the same records for the embedded default on a CPU and for 7 B on one GPU.

The stages are CoLLaVO's (arXiv 2402.11248, section 3.3): crayon prompt tuning (``cpt``) trains the crayon prompt alone;
crayon-based instruction tuning (``cit``) draws one task for each step, whose adapter trains while the other is frozen,
both in the forward pass. In the paper the crayon prompt goes on learning in the second stage; so it does here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from llm_server.base_checkpoint import NAME as EMBEDDED_BASE
from llm_server.base_checkpoint import Precision
from llm_server.training.expert_noise import USUAL, ExpertNoise

StageKind = Literal["cpt", "cit"]
Device = Literal["cpu", "cuda"]
AdapterUse = Literal["dual", "single", "vl-only"]
CrayonQueries = Literal["off", "semantic", "both"]


class TrainingRefused(ValueError):
    """What was asked for would train wrongly, or not at all."""


@dataclass(frozen=True)
class BaseSettings:
    """The frozen language model: its name (adapters carry it), how its weights are held, and where it computes."""

    name: str
    precision: Precision
    device: Device


@dataclass(frozen=True)
class AdapterSettings:
    """Of ``object`` and ``vl`` alike, on every linear layer of the decoder."""

    rank: int
    alpha: int


@dataclass(frozen=True)
class CrayonSettings:
    """The crayon prompt: grid, width of a query, rank and alpha of its branch, queries for row and column."""

    rows: int
    columns: int
    width: int
    rank: int
    alpha: float
    places: bool = True


@dataclass(frozen=True)
class StageSettings:
    """A stretch of training. The learning rate falls as a cosine from ``learning_rate`` to ``final_rate``."""

    kind: StageKind
    steps: int
    learning_rate: float
    final_rate: float
    warmup: int
    trains_crayon: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.final_rate <= self.learning_rate:
            raise ValueError(f"a stage cannot be {self}")
        if self.kind == "cpt" and not self.trains_crayon:
            raise ValueError("crayon prompt tuning trains the crayon prompt")


@dataclass(frozen=True)
class BatchSettings:
    """What a step reads.

    Attributes:
        sequences: packed sequences of a micro-batch.
        side_by_side: threads that a micro-batch is split among, for a CPU; 1: one batch of all its sequences.
        accumulation: micro-batches of a step; all of one task.
        questions: asked about a scene at most.
        max_tokens: of a sequence, image positions not counted.
        bucket_steps: steps whose sequences are sorted by length together before they are dealt out.
        checkpointing: computes each layer again in the backward pass instead of keeping what is inside.
    """

    sequences: int = 1
    side_by_side: int = 1
    accumulation: int = 1
    questions: int = 12
    max_tokens: int = 900
    bucket_steps: int = 1
    checkpointing: bool = False


@dataclass(frozen=True)
class Views:
    """Shares of examples by what they show: sentences and map, map alone, sentences alone."""

    both: float = 0.5
    map_only: float = 0.3
    text_only: float = 0.2


@dataclass(frozen=True)
class DualSettings:
    """A whole run.

    Attributes:
        adapter_use: ``dual``: each task trains its own adapter; ``single``: one adapter learns both tasks;
            ``vl-only``: the object task is never asked.
        crayon_queries: which of the crayon prompt's tables take part; ``off``: pictures have no image positions.
        vl_share: of the steps, those that train the ``vl`` task.
        views: what examples show.
        noise: what experts get wrong, in ``noisy_share`` of the scenes.
        save_steps: steps from one checkpoint to the next.
        heldout: examples of each column of the held-out losses.
        begun_from: SHA-256 of the adapters, and of the crayon prompt if there is one, that the run goes on from; None:
            fresh ones.
        practised: kinds of questions that are asked :data:`PRACTISED` times as often as else.
    """

    base: BaseSettings
    adapters: AdapterSettings
    crayon: CrayonSettings
    batch: BatchSettings
    stages: tuple[StageSettings, ...]
    seed: int = 0
    adapter_use: AdapterUse = "dual"
    crayon_queries: CrayonQueries = "both"
    vl_share: float = 0.5
    views: Views = Views()
    noise: ExpertNoise = USUAL
    noisy_share: float = 0.5
    save_steps: int = 50
    heldout: int = 40
    begun_from: str | None = None
    practised: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)


#: How much more often a question is asked that is practised.
PRACTISED: Final = 2.5

#: SmolLM2-135M on a CPU: rank and grid are smaller, so that weights and minutes stay few; the rest is as for 7 B.
#: A step is two scenes, one on each of two cores. Of three hours a tenth is left over: see `dual_schedule`.
EMBEDDED: Final = DualSettings(
    base=BaseSettings(EMBEDDED_BASE, "nf4-dequantised", "cpu"),
    adapters=AdapterSettings(rank=16, alpha=32),
    crayon=CrayonSettings(rows=12, columns=12, width=192, rank=16, alpha=16.0),
    batch=BatchSettings(sequences=2, side_by_side=2, bucket_steps=8),
    stages=(
        StageSettings("cpt", 360, 1e-3, 1e-4, 20),
        StageSettings("cit", 1840, 8e-4, 1e-5, 30),
    ),
)

#: The same from adapters that answer from sentences already (the scenes recipe's): the map is left to be learnt,
#: so it is what more of the examples show alone, and the adapters move in smaller steps.
CONTINUED: Final = replace(
    EMBEDDED,
    stages=(
        StageSettings("cpt", 150, 1e-3, 1e-4, 10),
        StageSettings("cit", 600, 4e-4, 1e-5, 15),
    ),
    views=Views(both=0.4, map_only=0.4, text_only=0.2),
    heldout=20,
)

#: The same from adapters and a crayon prompt that a dual run has left: what it was weakest at is asked more often.
FURTHER: Final = replace(
    CONTINUED,
    stages=(StageSettings("cit", 600, 5e-4, 1e-5, 15),),
    practised=(
        "list",
        "list_numbered",
        "list_boxes",
        "several",
        "once",
        "which_of",
        "options",
        "options_object",
        "doing",
        "bigger",
        "describe",
        "position",
        "class_boxes",
        "one_box",
    ),
)

#: A 7 B model on one GPU, with the paper's rank, rates and batch. Written for CUDA; it has not been run.
SEVEN_B: Final = DualSettings(
    base=BaseSettings("", "nf4", "cuda"),
    adapters=AdapterSettings(rank=64, alpha=64),
    crayon=CrayonSettings(rows=35, columns=35, width=1024, rank=256, alpha=256.0),
    batch=BatchSettings(sequences=4, accumulation=8, max_tokens=1536, bucket_steps=16, checkpointing=True),
    stages=(
        StageSettings("cpt", 3_700, 1e-4, 1e-6, 100),
        StageSettings("cit", 20_000, 1e-5, 1e-6, 100),
    ),
    save_steps=200,
    heldout=200,
)

#: A random model of two layers, for tests and the smoke run.
TINY: Final = DualSettings(
    base=BaseSettings("tiny-llama", "fp32", "cpu"),
    adapters=AdapterSettings(rank=8, alpha=16),
    crayon=CrayonSettings(rows=4, columns=4, width=16, rank=4, alpha=4.0),
    batch=BatchSettings(questions=3, max_tokens=600),
    stages=(StageSettings("cpt", 40, 1e-2, 1e-3, 4), StageSettings("cit", 80, 1e-2, 1e-3, 4)),
    save_steps=20,
    heldout=10,
)


def for_base(settings: DualSettings, name: str) -> DualSettings:
    """The settings with another base."""
    return replace(settings, base=replace(settings.base, name=name))


def smoke(settings: DualSettings, *, cpt: int, cit: int) -> DualSettings:
    """The same run with a few steps in each stage: does all of it work, and does it learn?"""
    counts = {"cpt": cpt, "cit": cit}
    stages = tuple(
        replace(stage, steps=counts[stage.kind], warmup=min(stage.warmup, max(1, counts[stage.kind] // 10)))
        for stage in settings.stages
    )
    return replace(settings, stages=stages)


def varied(settings: DualSettings, adapters: AdapterUse, queries: CrayonQueries) -> DualSettings:
    """The same run with a part left out, to see what that part is worth.

    - ``single``: one adapter learns both tasks, over the same steps; the other stays as it began, which is nothing.
    - ``vl-only``: the steps of the object task are left out of the second stage; those of the other are as many.
    - ``semantic``: the numbers of the map are not looked up. ``off``: no image positions, so no first stage either; the
      examples are the same, without their maps.
    """
    stages = settings.stages
    if adapters == "vl-only":
        stages = tuple(
            replace(stage, steps=max(1, round(stage.steps * settings.vl_share)))
            if stage.kind == "cit"
            else stage
            for stage in stages
        )
        settings = replace(settings, vl_share=1.0)
    if queries == "off":
        stages = tuple(replace(stage, trains_crayon=False) for stage in stages if stage.kind == "cit")
    return replace(settings, stages=stages, adapter_use=adapters, crayon_queries=queries)


def check(settings: DualSettings, *, cuda: bool) -> None:
    """Refuses what this machine would train wrongly; ``cuda`` says whether torch has a CUDA device.

    Raises:
        TrainingRefused: a 4-bit base on a CPU (bitsandbytes has no backward pass there), or no CUDA device.
    """
    base = settings.base
    if base.device == "cpu" and base.precision == "nf4":
        raise TrainingRefused(
            "a 4-bit base cannot be trained through on a CPU: bitsandbytes computes no gradients there. "
            "Choose nf4-dequantised, the same values in bfloat16, or bf16 or fp32."
        )
    if base.device == "cuda" and not cuda:
        raise TrainingRefused("these settings are for CUDA, and torch finds no CUDA device")
    if not settings.stages:
        raise TrainingRefused("there is no stage to run")
    if settings.batch.side_by_side > 1 and (base.device == "cuda" or settings.batch.checkpointing):
        raise TrainingRefused("sequences run side by side on a CPU only, and without checkpointing")
