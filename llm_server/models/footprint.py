"""How many bytes a model's weights take in a precision, from the shapes of its modules: nothing is allocated.

What counts is every tensor of the checkpoint, as the model holds it after loading: quantised weights with their
scales, the rest in the precision's own type. Not counted: keys and values, activations, the experts' own networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Final

import torch
from torch import Tensor, nn

from llm_server.models.precision import Precision, Quantisation
from llm_server.models.quantised_linear import NF4_BLOCK, SCALE_BLOCK
from llm_server.models.vision_language import VisionLanguageModel

_FLOAT32: Final = 4
#: What each layer keeps besides: the 16 levels of NF4, the 256 of its doubly quantised scales, and their mean.
_NF4_TABLES: Final = (16 + 256 + 1) * _FLOAT32


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model's weights: ``total``, of which ``quantised`` are of the ``quantised_parameters`` and their
    scales, and ``unused`` could be left out on loading."""

    total: int
    quantised: int
    parameters: int
    quantised_parameters: int
    unused: int


def quantised_bytes(shape: tuple[int, int], quantisation: Quantisation) -> int:
    """Bytes of a quantised weight (out, in) with its scales and tables, as bitsandbytes keeps them."""
    count = prod(shape)
    if quantisation == "int8":
        return count + shape[0] * _FLOAT32
    blocks = ceil(count / NF4_BLOCK)
    return ceil(count / 2) + blocks + ceil(blocks / SCALE_BLOCK) * _FLOAT32 + _NF4_TABLES


def footprint(model: VisionLanguageModel, chosen: Precision) -> Footprint:
    """Bytes that ``model`` (its shapes: "meta" will do) takes in a precision."""
    total = quantised = parameters = quantised_parameters = unused = 0
    for name, module in model.named_modules():
        for tensor in module.parameters(recurse=False):
            count = tensor.numel()
            if chosen.quantisation and chosen.quantises(model.dimensions.kind, name, module):
                rows, columns = tensor.shape
                size = quantised_bytes((rows, columns), chosen.quantisation)
                quantised += size
                quantised_parameters += count
            else:
                size = count * chosen.dtype.itemsize
            total += size
            parameters += count
            unused += size if ".w2.Plora_seg_" in name else 0
    return Footprint(total, quantised, parameters, quantised_parameters, unused)


def resident_bytes(model: nn.Module) -> int:
    """Bytes that a loaded model's weights take, quantisation scales and tables with them, each storage once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in _held(model) if tensor.numel()}.values())


def _held(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        yield from module.parameters(recurse=False)
        yield from module.buffers(recurse=False)
        weight = getattr(module, "weight", None)
        # bitsandbytes hangs these on the parameter (4 bit) or on parameter and layer (8 bit).
        for holder in (weight, getattr(module, "state", None)):
            for attribute in ("CB", "SCB"):
                if isinstance(part := getattr(holder, attribute, None), Tensor):
                    yield part
        state = getattr(weight, "quant_state", None)
        while state is not None:
            yield from (part for part in (state.absmax, state.code) if isinstance(part, torch.Tensor))
            if isinstance(offset := getattr(state, "offset", None), Tensor):
                yield offset
            state = getattr(state, "state2", None)
