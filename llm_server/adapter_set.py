"""Several LoRA adapters over one base, unmerged and summed, each with a scale of its own per row of a batch.

peft computes ``base(x) + sum over active adapters of B·A·x · scaling``. Its ``scaling`` is a number per layer; a tensor
(rows, 1, 1) in its place scales every row of a batch on its own, so that requests with different adapters share a step.
A row with factor 0 gets exactly the base: 0 is added to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import nn

from llm_server.adapter_files import AdapterFiles, AdapterRefused
from llm_server.sequence import AdapterScales


class AdapterSet:
    """A causal language model with its adapters. Belongs to the engine's thread."""

    def __init__(self, base: nn.Module, adapters: Sequence[AdapterFiles]) -> None:
        """Load ``adapters`` over ``base``, which is changed in place. Without adapters the base stays as it is.

        Raises :class:`AdapterRefused` if an adapter's tensors do not fit the base one to one.
        """
        self.model: Any = base
        self._peft: Any = None
        for adapter in adapters:
            self._load(base, adapter)
        self._layers: list[tuple[LoraLayer, dict[str, float]]] = []
        if self._peft is not None:
            self.model = self._peft.base_model.model
            for module in self.model.modules():
                if isinstance(module, LoraLayer):
                    self._layers.append((module, dict(module.scaling)))
        self.model.eval()
        self._applied: tuple[AdapterScales, ...] | None = None
        self._active: tuple[str, ...] | None = None

    def _load(self, base: nn.Module, adapter: AdapterFiles) -> None:
        folder = str(adapter.folder)
        # low_cpu_mem_usage: without, peft first draws random weights, most of the time that loading takes.
        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(
                    base, folder, adapter_name=adapter.name, is_trainable=False, low_cpu_mem_usage=True
                )
            else:
                self._peft.load_adapter(
                    folder, adapter_name=adapter.name, is_trainable=False, low_cpu_mem_usage=True
                )
        except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
            raise AdapterRefused(adapter.name, f"its tensors do not fit the base: {error}") from error
        with safe_open(str(adapter.weights), framework="pt") as tensors:
            shipped = set(tensors.keys())
        # Embedding layers are left out: to decide whether to save them peft would ask a hub about the base.
        state = get_peft_model_state_dict(self._peft, adapter_name=adapter.name, save_embedding_layers=False)
        expected = set(state)
        if shipped != expected:
            odd = sorted(shipped ^ expected)
            raise AdapterRefused(
                adapter.name, f"{len(odd)} tensors do not match the base's layers, such as {odd[0]}"
            )

    def apply(self, rows: Sequence[AdapterScales]) -> None:
        """Make the next forward pass use ``rows[r]`` for row ``r`` of its batch."""
        applied = tuple(rows)
        if self._peft is None or applied == self._applied:
            return
        factors = [dict(scales) for scales in applied]
        active = tuple(
            sorted({name for scales in factors for name, factor in scales.items() if factor != 0.0})
        )
        if active != self._active:
            self._peft.base_model.set_adapter(list(active), inference_mode=True)
            self._active = active
        for name in active:
            self._scale(name, [scales.get(name, 0.0) for scales in factors])
        self._applied = applied

    def _scale(self, name: str, factors: list[float]) -> None:
        if len(set(factors)) == 1:
            for layer, own in self._layers:
                if name in own:
                    layer.scaling[name] = own[name] * factors[0]
            return
        device = next(self.model.parameters()).device
        column = torch.tensor(factors, dtype=torch.float32, device=device)[:, None, None]
        scaled: dict[float, torch.Tensor] = {}
        for layer, own in self._layers:
            if name in own:
                layer.scaling[name] = scaled.setdefault(own[name], own[name] * column)
