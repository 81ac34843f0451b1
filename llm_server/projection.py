"""The products of linear layers that share their input, as one product where that is possible.

On a CPU in bfloat16 the weights are laid out once for oneDNN's kernels, which a plain product does at every call; what
is left of the model's own weights is freed. Layers in 4 bits stay modules of their own, called one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Projection(Protocol):
    """x (N, in) to (N, sum of outs)."""

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""


class DenseProjection:
    """Weights on one another in one matrix, of which the modules' own weights become views."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        if len(linears) == 1:
            self._weight = linears[0].weight.detach()
            return
        self._weight = torch.cat([linear.weight.detach() for linear in linears])
        start = 0
        for linear in linears:
            end = start + linear.out_features
            linear.weight = nn.Parameter(self._weight[start:end], requires_grad=False)
            start = end

    def __call__(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self._weight)


class PackedProjection:
    """The same in oneDNN's own layout. The modules' weights are freed: the base cannot be called any more."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weight = packed(torch.cat([weight.detach() for weight in weights]))

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return product


class SeparateProjection:
    """Modules that compute their product themselves."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = tuple(modules)

    def __call__(self, x: Tensor) -> Tensor:
        outs: list[Tensor] = [module(x) for module in self._modules]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)


def projection(modules: Sequence[Any], *, pack: bool) -> Projection:
    """The quickest for ``modules``. With ``pack``, plain layers in bfloat16 on a CPU lose their weights to it.

    Raises ValueError for layers with a bias.
    """
    if any(module.bias is not None for module in modules):
        raise ValueError("linear layers with a bias are not served")
    if any(type(module) is not nn.Linear for module in modules):
        return SeparateProjection(modules)
    if not (pack and packable(modules[0].weight)):
        return DenseProjection(modules)
    product = PackedProjection([module.weight for module in modules])
    for module in modules:
        module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)
    return product


def packable(weight: Tensor) -> bool:
    """Whether :class:`PackedProjection` can be used for ``weight`` here."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def packed(weight: Tensor) -> Tensor:
    """A copy of ``weight`` (out, in) in oneDNN's own layout, good for its products alone."""
    copy: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return copy
