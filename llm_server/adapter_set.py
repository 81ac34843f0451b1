"""Several LoRA adapters over one base, unmerged and summed, each with a scale of its own per row of a batch.

See :mod:`llm_server.lora_stack` for how rows with different adapters share one product. Adapters come and go between
two steps; each has a key, and the factors of a row name keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llm_server.adapter_files import AdapterFiles, AdapterRefused
from llm_server.lora_stack import LoraStack, LowRankPair
from llm_server.sequence import AdapterScales

#: Linear layers of a Llama decoder layer that share their input.
GROUPS: tuple[tuple[str, ...], ...] = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Factors:
    """What the rows of one forward pass want. ``by_layers[n]`` fits a stack of n layers, None where all are 1."""

    by_layers: Mapping[int, Tensor | None]


@dataclass(frozen=True, slots=True)
class AdapterTensors:
    """An adapter read from disk and found to fit the base: pairs by full name of the linear layer."""

    rank: int
    pairs: Mapping[str, LowRankPair]


class AdapterSet:
    """A language model of Llama's layout, with adapters. Belongs to the engine's thread, but for :meth:`read`."""

    def __init__(self, base: Any, adapters: Sequence[AdapterFiles] = ()) -> None:
        """Stack ``adapters``, by their names as keys, over ``base``, a LlamaForCausalLM, which stays as it is.

        Raises :class:`AdapterRefused` if an adapter's tensors do not fit the base one to one.
        """
        self.model = base
        embedding: Tensor = self.model.get_input_embeddings().weight
        self._dtype: torch.dtype = embedding.dtype
        self._device: torch.device = embedding.device
        self._shapes: dict[str, tuple[int, int]] = {}
        self.stacks: list[list[LoraStack]] = []
        for number in range(int(self.model.config.num_hidden_layers)):
            self.stacks.append([self._stack(number, group) for group in GROUPS])
        self._ranks: dict[str, int] = {}
        for adapter in adapters:
            self.add(adapter.name, self.read(adapter))

    def _stack(self, number: int, group: tuple[str, ...]) -> LoraStack:
        linears = [self.model.get_submodule(f"model.layers.{number}.{name}") for name in group]
        for name, linear in zip(group, linears, strict=True):
            self._shapes[f"model.layers.{number}.{name}"] = (linear.in_features, linear.out_features)
        return LoraStack(
            linears[0].in_features,
            [linear.out_features for linear in linears],
            dtype=self._dtype,
            device=self._device,
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """What is stacked, in order."""
        return tuple(self._ranks)

    def read(self, adapter: AdapterFiles) -> AdapterTensors:
        """An adapter's tensors, each held against the base; changes nothing, so that any thread may call it.

        Raises :class:`AdapterRefused`.
        """
        try:
            with safe_open(str(adapter.weights), framework="pt") as file:
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise AdapterRefused(adapter.name, f"its weights cannot be read: {error}") from error
        linears = [linear for linear in self._shapes if adapter.sits_on(linear)]
        expected = {
            f"{_PEFT_PREFIX}{linear}.lora_{side}.weight": shape
            for linear in linears
            for side, shape in (
                ("A", (adapter.rank, self._shapes[linear][0])),
                ("B", (self._shapes[linear][1], adapter.rank)),
            )
        }
        odd = sorted(tensors.keys() ^ expected.keys())
        if odd or not expected:
            such = f", such as {odd[0]}" if odd else ""
            raise AdapterRefused(adapter.name, f"{len(odd)} tensors do not match the base's layers{such}")
        for name, tensor in tensors.items():
            if tuple(tensor.shape) != expected[name]:
                raise AdapterRefused(
                    adapter.name, f"its tensors do not fit the base: {name} is {tuple(tensor.shape)}"
                )
            if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                raise AdapterRefused(adapter.name, f"{name} is not all finite numbers")
        return AdapterTensors(
            adapter.rank,
            {
                linear: LowRankPair(
                    tensors[f"{_PEFT_PREFIX}{linear}.lora_A.weight"],
                    tensors[f"{_PEFT_PREFIX}{linear}.lora_B.weight"],
                    adapter.scaling,
                )
                for linear in linears
            },
        )

    def add(self, key: str, tensors: AdapterTensors) -> None:
        """Stack an adapter under ``key``. Raises ValueError if the key is taken."""
        if key in self._ranks:
            raise ValueError(f"there is an adapter {key!r} already")
        for number, stacks in enumerate(self.stacks):
            for group, stack in zip(GROUPS, stacks, strict=True):
                names = [f"model.layers.{number}.{name}" for name in group]
                stack.append(
                    tensors.rank,
                    {place: tensors.pairs[name] for place, name in enumerate(names) if name in tensors.pairs},
                )
        self._ranks[key] = tensors.rank

    def drop(self, key: str) -> None:
        """Take an adapter out; unknown keys are fine."""
        if key not in self._ranks:
            return
        keys = [*self._ranks]
        start = sum(self._ranks[before] for before in keys[: keys.index(key)])
        rank = self._ranks.pop(key)
        for stacks in self.stacks:
            for stack in stacks:
                stack.remove(start, rank)

    def factors(self, rows: Sequence[AdapterScales]) -> Factors | None:
        """For a forward pass over ``rows``; None if none of them wants any adapter.

        Raises KeyError for a key that is not stacked.
        """
        wanted = [dict(row) for row in rows]
        for row in wanted:
            for key in row:
                if key not in self._ranks:
                    raise KeyError(f"no adapter {key!r} is loaded")
        if not any(scale != 0.0 for row in wanted for scale in row.values()):
            return None
        columns = [[row.get(key, 0.0) for key in self._ranks] for row in wanted]
        if all(scale == 1.0 for row in columns for scale in row):
            return Factors({1: None, 2: None, 3: None})
        ranks = torch.tensor([*self._ranks.values()])
        one = torch.tensor(columns, dtype=torch.float32).repeat_interleave(ranks, dim=1)
        one = one.to(self._dtype).to(self._device)
        return Factors({count: one.repeat(1, count) for count in (1, 2, 3)})
