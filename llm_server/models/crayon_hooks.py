"""Where a crayon prompt enters a causal language model of transformers: forward hooks at image positions.

The linear layers keep their own forward (peft's adapters, 4-bit weights, a fused path); a hook adds the branch to the
rows that are image positions. Hooks are there only while a prompt with a picture is read: a decode step runs the very
model without them. In training they must stay until the backward pass is over, as gradient checkpointing computes
layers a second time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from llm_server.models.crayon_prompt import CrayonPrompt
from llm_server.models.image_rows import ImageRows

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


class CrayonMismatch(ValueError):
    """A crayon prompt and a model that do not belong together."""


def branch_outputs(model: nn.Module, targets: Sequence[str]) -> dict[str, int]:
    """Width out of each linear layer of the decoder whose last name is among ``targets``, by its name in the model.

    Names are those of the model without adapters: what peft puts in front of them or inserts is left out, so that the
    same parameters fit a model before and after adapters are added.

    Raises:
        CrayonMismatch: there is no such layer, or not in every decoder layer.
    """
    return {name: int(module.out_features) for name, module in _linears(model, targets).items()}


def _linears(model: nn.Module, targets: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    layers: dict[str, set[str]] = {target: set() for target in targets}
    everywhere: set[str] = set()
    for name, module in model.named_modules():
        at = _LAYER.search(name)
        if at is None:
            continue
        everywhere.add(at.group(1))
        target = name.rpartition(".")[2]
        if target in layers and hasattr(module, "out_features"):
            found[_plain(name)] = module
            layers[target].add(at.group(1))
    missing = sorted(target for target, where in layers.items() if where != everywhere)
    if missing or not found:
        raise CrayonMismatch(
            f"the model's {len(everywhere)} decoder layers do not all have {', '.join(missing) or 'any'}"
        )
    return found


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.")


class CrayonHooks:
    """A causal language model with the places where a crayon prompt enters it.

    Args:
        model: a causal language model of transformers, with or without peft adapters.
        crayon: parameters made for it.

    Raises:
        CrayonMismatch: the parameters were made for other layers or another width.
    """

    def __init__(self, model: nn.Module, crayon: CrayonPrompt) -> None:
        width = int(model.get_input_embeddings().weight.shape[1])  # type: ignore[operator]
        if crayon.shape.hidden != width:
            raise CrayonMismatch(f"the crayon prompt is {crayon.shape.hidden} wide, the model {width}")
        self.crayon = crayon
        self._layers: list[tuple[nn.Module, nn.Module]] = []
        if not crayon.shape.rank:
            return
        linears = _linears(model, crayon.shape.targets)
        found = {name: int(linear.out_features) for name, linear in linears.items()}
        if found != crayon.outputs:
            raise CrayonMismatch(
                f"{len(crayon.outputs)} branches do not belong to the model's {len(found)} layers"
            )
        self._layers = [(linear, crayon.branch(name)) for name, linear in linears.items()]

    @property
    def layers(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """The linear layers of the model, each with its branch."""
        return tuple(self._layers)

    @contextmanager
    def applied(self, rows: ImageRows | None) -> Iterator[None]:
        """Adds the branches in every forward pass within, at ``rows`` of the flattened states.

        ``rows`` None, or without crayon features, adds nothing and costs nothing.
        """
        with ExitStack() as stack:
            if rows is not None and rows.crayon is not None and rows.crayon_index is not None:
                for linear, branch in self._layers:
                    hook = _adding(branch, rows.crayon_index, rows.crayon)
                    stack.callback(linear.register_forward_hook(hook).remove)
            yield


def _adding(branch: nn.Module, index: Tensor, features: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(module: nn.Module, arguments: Any, out: Tensor) -> Tensor:
        added = branch(features.to(out.dtype))
        return out.flatten(0, -2).index_add(0, index, added).view(out.shape)

    return hook


def put_tokens(embeddings: Tensor, rows: ImageRows | None) -> Tensor:
    """Embeddings (B, T, H) with the crayon features in place of the image rows' own: a new tensor, gradients pass.

    For a language model without a vision tower. One that has image tokens keeps them and does not call this.
    """
    if rows is None or rows.crayon is None or rows.crayon_index is None:
        return embeddings
    flat = embeddings.flatten(0, 1)
    return flat.index_copy(0, rows.crayon_index, rows.crayon.to(flat.dtype)).view(embeddings.shape)


def crayon_rows(
    image: Tensor, features: Tensor | None, with_crayon: Tensor | None = None
) -> ImageRows | None:
    """Rows for an image mask (B, T) bool and features (K, N, H) of the K prompts that have them; None for none.

    Raises:
        ValueError: there are not as many features as image positions.
    """
    if features is None:
        return None
    chosen = image if with_crayon is None else image & with_crayon[:, None]
    index = chosen.flatten().nonzero()[:, 0]
    flat = features.flatten(0, 1)
    if len(index) != len(flat):
        raise ValueError(f"{len(flat)} crayon features for {len(index)} image positions")
    on_device = index.to(flat.device)
    return ImageRows(on_device, on_device, flat)


def chunk_rows(rows: ImageRows | None, start: int, count: int) -> ImageRows | None:
    """What of one prompt's rows (B = 1) falls into positions ``start`` to ``start + count``: to read it in chunks.

    ``rows`` are those of the whole prompt; the result counts from ``start``. None if there are none.
    """
    if rows is None or rows.crayon is None or rows.crayon_index is None:
        return None
    inside = (rows.crayon_index >= start) & (rows.crayon_index < start + count)
    if not bool(inside.any()):
        return None
    index = rows.crayon_index[inside] - start
    return ImageRows(index, index, rows.crayon[inside])
