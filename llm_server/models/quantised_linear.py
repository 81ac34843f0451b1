"""Linear layers that bitsandbytes computes with, quantised in pieces.

bitsandbytes quantises a whole weight at once and takes twelve bytes an element while it does; the largest layer of a
7 B model would cost 0.7 GB in passing. Blocks and rows do not depend on one another, so pieces give the same bits.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Final

import torch
from torch import Tensor, nn

from llm_server.models.precision import Precision

NF4_BLOCK: Final = 64
#: Double quantisation: block scales are bytes themselves, with one float32 scale for this many of them.
SCALE_BLOCK: Final = 256
#: Outlier threshold of 8-bit layers, as the published loaders set it.
INT8_THRESHOLD: Final = 6.0
#: Elements that are quantised at once; a multiple of the block.
_PIECE: Final = 1 << 17


def quantised_linear(weight: Tensor, chosen: Precision, device: torch.device) -> nn.Module:
    """A linear layer without bias over ``weight`` (out, in) of any float type, quantised on ``device``.

    Raises:
        ValueError: the precision quantises nothing.
    """
    if chosen.quantisation == "nf4":
        return _nf4(weight, chosen.dtype, device)
    if chosen.quantisation == "int8":
        return _int8(weight, device)
    raise ValueError(f"{chosen.name} quantises nothing")


def _nf4(weight: Tensor, dtype: torch.dtype, device: torch.device) -> nn.Module:
    import bitsandbytes as bnb

    layers: Any = bnb.nn  # untyped
    functional: Any = bnb.functional
    flat = weight.reshape(-1)
    packed = torch.empty(ceil(len(flat) / 2), 1, dtype=torch.uint8, device=device)
    scales = torch.empty(ceil(len(flat) / NF4_BLOCK), dtype=torch.float32, device=device)
    for start in range(0, len(flat), _PIECE):
        piece = flat[start : start + _PIECE].to(device=device, dtype=dtype)
        out, state = functional.quantize_4bit(piece, blocksize=NF4_BLOCK, quant_type="nf4")
        packed[start // 2 : start // 2 + len(out)] = out
        scales[start // NF4_BLOCK : start // NF4_BLOCK + len(state.absmax)] = state.absmax
    mean = scales.mean()
    levels, scale_state = functional.quantize_blockwise(scales - mean, blocksize=SCALE_BLOCK)
    whole = functional.QuantState(
        absmax=levels,
        shape=weight.shape,
        dtype=dtype,
        blocksize=NF4_BLOCK,
        code=functional.get_4bit_type("nf4", device=device),
        quant_type="nf4",
        offset=mean,
        state2=scale_state,
    )
    outputs, inputs = weight.shape
    layer = layers.Linear4bit(
        inputs, outputs, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta"
    )
    layer.weight = layers.Params4bit(
        packed,
        requires_grad=False,
        quant_state=whole,
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        bnb_quantized=True,
        module=layer,
    )
    layer.quant_state = whole
    # The AVX512-BF16 weight packing wants outputs in multiples of 32 and corrupts weights on merging.
    layer.support_avx512bf16_for_cpu = False
    quantised: nn.Module = layer.eval()
    return quantised


def _int8(weight: Tensor, device: torch.device) -> nn.Module:
    import bitsandbytes as bnb

    layers: Any = bnb.nn  # untyped
    functional: Any = bnb.functional
    outputs, inputs = weight.shape
    values = torch.empty(outputs, inputs, dtype=torch.int8, device=device)
    scales = torch.empty(outputs, dtype=torch.float32, device=device)
    rows = max(1, _PIECE // inputs)
    for start in range(0, outputs, rows):
        piece = weight[start : start + rows].to(device=device, dtype=torch.float16)
        values[start : start + rows], scales[start : start + rows], _ = functional.int8_vectorwise_quant(
            piece
        )
    layer = layers.Linear8bitLt(
        inputs, outputs, bias=False, has_fp16_weights=False, threshold=INT8_THRESHOLD, device="meta"
    )
    layer.weight = layers.Int8Params(
        values, requires_grad=False, has_fp16_weights=False, CB=values, SCB=scales
    )
    quantised: nn.Module = layer.eval()
    return quantised
