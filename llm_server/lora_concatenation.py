"""Several adapters as one of the sum of their ranks, for engines that apply one adapter to a request.

With ``W + sum_i s_i (alpha_i / r_i) B_i A_i`` the sum is one low-rank product again: the ``A_i`` below one another, the
``B_i`` side by side, each with its factor. It is written as peft saves adapters (Hu et al., arXiv:2106.09685; peft's
``add_weighted_adapter`` with ``combination_type="cat"``), with alpha = rank, so that no factor is left to apply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llm_server.adapter_files import CONFIG, WEIGHTS, AdapterFiles, AdapterRefused

_KEY = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")

#: By layer: A (rank, inputs) and B (outputs, rank), in float32.
LowRank = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


def read_low_rank(adapter: AdapterFiles) -> LowRank:
    """The products of one adapter, by peft's name of the layer. Raises :class:`AdapterRefused`."""
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in load_file(adapter.weights).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise AdapterRefused(adapter.name, f"{key} is not part of a low-rank product")
        sides.setdefault(match["layer"], {})[match["side"]] = value.float()
    if alone := sorted(layer for layer, pair in sides.items() if len(pair) != 2):
        raise AdapterRefused(adapter.name, f"half of a product at {', '.join(alone)}")
    return {layer: (pair["A"], pair["B"]) for layer, pair in sides.items()}


def concatenate(parts: Sequence[tuple[LowRank, float]]) -> LowRank:
    """One product per layer, equal to the sum of the parts' products times their factors.

    A layer that a part does not touch has zeros in its place, so that every layer has the same rank: some engines take
    the rank from the config. Raises :class:`ValueError` for no parts, or shapes that differ.
    """
    ranks = [_rank(part) for part, _ in parts]
    if not ranks:
        raise ValueError("there is nothing to concatenate")
    layers = sorted({layer for part, _ in parts for layer in part})
    return {layer: _side_by_side(layer, parts, ranks) for layer in layers}


def _side_by_side(
    layer: str, parts: Sequence[tuple[LowRank, float]], ranks: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    shapes = {(part[layer][0].shape[1], part[layer][1].shape[0]) for part, _ in parts if layer in part}
    if len(shapes) != 1:
        raise ValueError(f"the adapters see different shapes of {layer}: {sorted(shapes)}")
    ((inputs, outputs),) = shapes
    below, beside = [], []
    for (part, factor), rank in zip(parts, ranks, strict=True):
        down, up = part.get(layer, (torch.zeros(rank, inputs), torch.zeros(outputs, rank)))
        below.append(down)
        beside.append(up * factor)
    return torch.cat(below), torch.cat(beside, dim=1)


def _rank(part: LowRank) -> int:
    ranks = {down.shape[0] for down, _ in part.values()} | {up.shape[1] for _, up in part.values()}
    if len(ranks) != 1:
        raise ValueError(f"an adapter has one rank, not {sorted(ranks)}")
    return ranks.pop()


def save_concatenated(adapters: Sequence[tuple[AdapterFiles, float]], folder: Path) -> Path:
    """Write the sum of ``adapters``, each times its scale and its own alpha over rank, to ``folder``; return it.

    Raises :class:`AdapterRefused`, and :class:`ValueError` as :func:`concatenate`.
    """
    merged = concatenate([(read_low_rank(one), scale * one.scaling) for one, scale in adapters])
    rank = _rank(merged)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapters[0][0].base,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({layer.rsplit(".", maxsplit=1)[-1] for layer in merged}),
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{layer}.lora_{side}.weight": value.contiguous()
        for layer, pair in merged.items()
        for side, value in zip("AB", pair, strict=True)
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return folder
