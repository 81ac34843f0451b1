"""MoAI as a module to train: which part learns in which step, its loss, its tensors by their released names.

In the first step one expert of each side speaks alone in every mixer, drawn anew for each step; experts that do not
speak, and the gates, get no gradient at all, so that no optimiser moves them.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llm_server.models.checkpoint import released_key
from llm_server.models.gates import EXPERTS, GateOverrides, Side, one_expert
from llm_server.models.image_rows import image_rows
from llm_server.models.mixer import Mixing, Tokens
from llm_server.models.moai import Moai
from llm_server.training.moai_batch import MoaiBatch
from llm_server.training.moai_settings import GateType, StepKind
from llm_server.training.packing import IGNORED

TENSORS: Final = "trained.safetensors"

#: Modules of a mixer by side, in the order of `gates.EXPERTS`.
EXPERT_MODULES: Final[Mapping[Side, tuple[str, str, str]]] = {
    "image": ("CA_img_aux", "CA_img_lang", "SA_img"),
    "language": ("CA_lang_aux", "CA_lang_img", "SA_lang"),
}
_AUXILIARY: Final = EXPERTS.index("aux")
_GATES: Final = ("GA_img", "GA_lang")
_TYPES: Final[Mapping[GateType, torch.dtype]] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

#: The expert that speaks, by layer and side.
Draw = Mapping[tuple[int, Side], int]


def draw_experts(seed: int, step: int, layers: tuple[int, ...]) -> dict[tuple[int, Side], int]:
    """Which expert of each side speaks in each mixer at optimiser step ``step``; the same for the same numbers."""
    rng = random.Random(f"polysight-moai-experts/{seed}/{step}")
    return {(layer, side): rng.randrange(len(EXPERTS)) for layer in layers for side in EXPERT_MODULES}


class MoaiLearner(nn.Module):
    """A MoAI whose compressor, mixers and gates learn.

    Args:
        model: as loaded, frozen.
        gate_dtype: type of the gates' softmax.
    """

    def __init__(self, model: Moai, gate_dtype: GateType) -> None:
        super().__init__()
        self.model = model
        self._gate_dtype = _TYPES[gate_dtype]
        for parameter in self.trained().values():
            # A rate of 1e-5 is lost in bfloat16.
            parameter.data = parameter.data.float()

    def trained(self) -> dict[str, nn.Parameter]:
        """What learns, by its key in a released checkpoint: the keys that contain ``moai``."""
        named = ((released_key(name), value) for name, value in self.model.named_parameters())
        return {key: value for key, value in named if "moai" in key}

    def may_learn(self, kind: StepKind) -> None:
        """Marks what learns at some step of a stage: an optimiser is built from what is marked."""
        for key, parameter in self.trained().items():
            parameter.requires_grad_(kind == "step2" or not _is_gate(key))

    def learns(self, drawn: Draw) -> None:
        """Lets the drawn experts learn, the compressor if one of them listens to it, and nothing else."""
        speaking = {
            f"model.layers.{layer}.attention.moai_{EXPERT_MODULES[side][expert]}."
            for (layer, side), expert in drawn.items()
        }
        if _AUXILIARY in drawn.values():
            # Else its gradient is zero, and momentum alone would move it.
            speaking.add("moai_compressor.")
        for key, parameter in self.trained().items():
            parameter.requires_grad_(any(key.startswith(one) for one in speaking))

    def forward(self, batch: MoaiBatch, drawn: Draw | None) -> Tensor:
        """Mean cross-entropy over the answers' tokens; the head is computed at those only.

        Args:
            batch: prompts with answers.
            drawn: the experts that speak alone (first step); None: all, weighed by the gates.
        """
        model, prompts, device = self.model, batch.prompts, self.model.device
        with torch.no_grad():
            features = model.image_features(batch.pixels)
            maps = model.image_features(batch.map_pixels)
        auxiliary = model.auxiliary(batch.text, maps)
        overrides: tuple[GateOverrides, ...] = ()
        if drawn is not None:
            layers = {place: one_expert(expert) for place, expert in drawn.items()}
            overrides = (GateOverrides(layers=layers),) * len(prompts.ids)
        mixing = Mixing(
            auxiliary,
            Tokens.of(prompts.image.to(device)),
            Tokens.of((batch.asked & ~prompts.image).to(device)),
            overrides,
            self._gate_dtype,
        )
        with self._silent_gates(drawn is not None):
            states = model.read_batch(prompts, features, None, image_rows(prompts.image), mixing)
        targets = batch.targets.to(device)
        kept = targets != IGNORED
        return nn.functional.cross_entropy(model.logits(states[kept]), targets[kept])

    @contextmanager
    def _silent_gates(self, silent: bool) -> Iterator[None]:
        """Within, gates that have nothing to say (their weights are given) stay out of the graph."""
        with ExitStack() as stack:
            if silent:
                for mixer in self.model.model.mixers.values():
                    for name in _GATES:
                        gate: Any = getattr(mixer, name)
                        stack.callback(gate.register_forward_hook(_detached).remove)
            yield

    def save(self, folder: Path) -> None:
        """Writes what learns to ``folder``, exactly."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{TENSORS}.partial"
        save_file({k: v.detach().cpu().contiguous() for k, v in self.trained().items()}, partial)
        partial.replace(folder / TENSORS)

    def restore(self, folder: Path) -> None:
        """Reads what :meth:`save` wrote.

        Raises:
            ValueError: the tensors are those of another model.
        """
        stored, own = load_file(folder / TENSORS), self.trained()
        if {k: v.shape for k, v in stored.items()} != {k: v.shape for k, v in own.items()}:
            raise ValueError(f"{folder} holds the trained tensors of another model")
        with torch.no_grad():
            for key, value in stored.items():
                own[key].copy_(value)

    def frozen_sha256(self) -> str:
        """Of every byte of what does not learn, quantised weights and their scales included."""
        own = self.trained()
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict(keep_vars=True).items()):
            if released_key(name) not in own and isinstance(value, Tensor):
                digest.update(name.encode())
                digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def initialise(model: Moai, seed: int) -> None:
    """Random compressor, mixers and gates, as torch initialises such layers; latents from a normal of width 1.

    The gates begin at zero: every expert weighs a third.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        key = released_key(name)
        if "moai" not in key:
            continue
        values = torch.empty(parameter.shape)
        if _is_gate(key):
            values.zero_()
        elif key.endswith("latents"):
            values.normal_(generator=generator)
        elif parameter.ndim == 1:
            values.fill_(1.0 if key.endswith("weight") else 0.0)
        else:
            nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
        with torch.no_grad():
            parameter.copy_(values)


def _is_gate(key: str) -> bool:
    return any(f"moai_{name}." in key for name in _GATES)


def _detached(module: nn.Module, arguments: Any, out: Tensor) -> Tensor:
    return out.detach()
