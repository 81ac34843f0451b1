"""Every knob of MoAI's training. Only compressor, mixers and gates learn; all else is frozen.

Two steps (the modes of `moai_step1.yaml` and `moai_step2.yaml` in the released code):
1. ``step1``: in each mixer one expert of a side, drawn anew for every step, speaks alone; it learns, and the compressor
   if it is one that listens to the auxiliary tokens.
2. ``step2``: all six experts speak, weighed by the gates; compressor, experts and gates learn.

From the released code: the rates (2e-5 falling to 1e-6, both files), one epoch, a cross-entropy loss, gates whose
softmax is bfloat16 in the second step, and what learns. Not released: training code, batch size and warm-up; what
stands here for them is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from llm_server.models.precision import PrecisionName
from llm_server.training.dual_settings import Device, TrainingRefused

StepKind = Literal["step1", "step2"]
GateType = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class MoaiStage:
    """One of the two steps. The learning rate falls as a cosine from ``learning_rate`` to ``final_rate``."""

    kind: StepKind
    steps: int
    learning_rate: float
    final_rate: float
    warmup: int

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.final_rate <= self.learning_rate:
            raise ValueError(f"a stage cannot be {self}")


@dataclass(frozen=True)
class MoaiSettings:
    """A whole run.

    Attributes:
        stages: the two steps.
        precision: of the frozen base; what learns is float32 in any case.
        device: where it computes.
        prompts: of a micro-batch.
        accumulation: micro-batches of an optimiser step.
        gate_dtype: type of the gates' softmax in the second step.
        fresh: begin with random compressor, mixers and gates instead of those of the checkpoint.
        examples: how many different ones are trained on, again and again; 0: each one once.
        heldout: examples that are never trained on.
        save_steps: steps from one checkpoint to the next.
        seed: of examples, draws and initial weights.
    """

    stages: tuple[MoaiStage, ...]
    precision: PrecisionName = "fp32"
    device: Device = "cpu"
    prompts: int = 2
    accumulation: int = 1
    gate_dtype: GateType = "bfloat16"
    fresh: bool = False
    examples: int = 0
    heldout: int = 16
    save_steps: int = 50
    seed: int = 0

    @property
    def steps(self) -> int:
        """Steps of both stages."""
        return sum(stage.steps for stage in self.stages)


#: The published rates. Steps and batch are ours: 32 prompts a step, as CoLLaVO's paper has it. It has not been run.
PUBLISHED: Final = MoaiSettings(
    stages=(
        MoaiStage("step1", 20_000, 2e-5, 1e-6, 100),
        MoaiStage("step2", 20_000, 2e-5, 1e-6, 100),
    ),
    precision="nf4",
    device="cuda",
    prompts=1,
    accumulation=32,
    heldout=200,
    save_steps=200,
)

#: For tiny weights on a CPU: a few pictures seen often, at a rate that moves them in a minute.
TINY: Final = MoaiSettings(
    stages=(MoaiStage("step1", 60, 1e-2, 1e-3, 4), MoaiStage("step2", 60, 1e-2, 1e-3, 4)),
    fresh=True,
    examples=8,
    heldout=8,
    save_steps=20,
)


def with_steps(settings: MoaiSettings, steps: int) -> MoaiSettings:
    """The settings with ``steps`` steps in each stage."""
    stages = tuple(
        replace(stage, steps=steps, warmup=min(stage.warmup, max(1, steps // 10)))
        for stage in settings.stages
    )
    return replace(settings, stages=stages)


def check(settings: MoaiSettings, *, cuda: bool) -> None:
    """Refuses what this machine would train wrongly; ``cuda`` says whether torch has a CUDA device.

    Raises:
        TrainingRefused: a quantised base on a CPU (bitsandbytes computes no gradients there), or no CUDA device.
    """
    if settings.device == "cpu" and settings.precision in ("int8", "nf4", "reference-4bit"):
        raise TrainingRefused(
            f"a base in {settings.precision} cannot be trained through on a CPU: bitsandbytes computes no gradients "
            "there. Choose fp32 or bf16."
        )
    if settings.device == "cuda" and not cuda:
        raise TrainingRefused("these settings are for CUDA, and torch finds no CUDA device")
    if not settings.stages:
        raise TrainingRefused("there is no stage to run")
