"""What passes between a model's modules while it reads a prompt, under the golden vectors' names, seen by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llm_server.models.vision_language import VisionLanguageModel

_EXPERTS = ("CA_img_aux", "CA_img_lang", "SA_img", "CA_lang_aux", "CA_lang_img", "SA_lang")


@contextmanager
def tracing(model: VisionLanguageModel) -> Iterator[dict[str, Tensor]]:
    """A dictionary that the next forward pass fills: layer 0's parts, every layer's output, the mixers' parts."""
    seen: dict[str, Tensor] = {}
    handles = []

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            seen[name] = output.detach().clone()

        return hook

    def mixer(index: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            seen[f"mixer{index}.pre"], seen[f"mixer{index}.post"] = arguments[0].clone(), output.clone()

        return hook

    language = model.model
    first = language.get_submodule("layers.0.attention")
    handles.append(first.register_forward_hook(note("layer0.attn_out")))
    handles.append(first.get_submodule("wqkv").register_forward_hook(note("layer0.wqkv")))
    handles.append(language.norm.register_forward_hook(note("final_norm")))
    for index, layer in enumerate(language.layers):
        handles.append(layer.register_forward_hook(note(f"hidden.{index}")))
    for index, module in language.mixers.items():
        handles.append(module.register_forward_hook(mixer(index)))
        for name in _EXPERTS:
            part = module.get_submodule(name)
            handles.append(part.register_forward_hook(note(f"mixer{index}.expert_{name}")))
        for side in ("img", "lang"):
            gate = module.get_submodule(f"GA_{side}")
            handles.append(gate.register_forward_hook(note(f"mixer{index}.gate_logits_{side}")))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def last_positions(seen: dict[str, Tensor], layers: int) -> Tensor:
    """(B, layers, H): every layer's output at the last prompt position."""
    return torch.stack([seen[f"hidden.{index}"][:, -1] for index in range(layers)], dim=1)
