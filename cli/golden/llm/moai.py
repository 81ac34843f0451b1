"""Computes a golden case of MoAI, from picture, segments and verbalised experts to tokens."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Final

import numpy as np
import torch
from torch import Tensor

from cli.golden.llm import inputs
from cli.golden.llm.answers import decode
from cli.golden.llm.prompts import case_prompts, compare_texts
from cli.golden.llm.record import CaseDifferences
from cli.golden.llm.trace import last_positions, tracing
from cli.golden.llm.vectors import GoldenCase, GoldenVectors
from gateway import reference
from gateway.verbalizer import verbalize_regions
from llm_server.models.aux_tokens import AuxiliaryText, Source, auxiliary_batch, auxiliary_text
from llm_server.models.decoding import DecodingSession, GrowingCache
from llm_server.models.gates import EXPERTS, GateOverrides, Side, one_expert
from llm_server.models.mixer import Mixing, Tokens
from llm_server.models.moai import Moai
from llm_server.models.profiles import REFERENCE
from llm_server.prompts.pixels import normalisation_tables

_TAIL = 16
_SHORT: Final[Mapping[Side, str]] = {"image": "img", "language": "lang"}
_SOURCES: Final[Mapping[Source, str]] = {
    "regions": "seg",
    "detections": "od",
    "relations": "sgg",
    "text": "ocr",
}
_GATES: Final = {"float16": torch.float16, "float32": torch.float32}[REFERENCE.gate_dtype]


def compute(
    golden: GoldenVectors, case: GoldenCase, model: Moai, found: CaseDifferences
) -> dict[str, Tensor]:
    """Every tensor of a case by its golden name."""
    prompts = case_prompts(golden, case, model, case.told["prompts"], found)
    out = dict(prompts.tensors)
    squashed = [inputs.image(case, member, model.dimensions.vision.image_size) for member in case.members]
    out["image"] = torch.from_numpy(squashed[0])
    if "seg_class_logits" in case.tensors:
        out["segmentation"] = inputs.segmentation(case)
    out["pixel_values"] = torch.cat([inputs.pixel_values(each, np.float32) for each in squashed])
    out["clip_features"] = model.clip_features(out["pixel_values"])
    features = out["image_features"] = model.vision_proj(out["clip_features"])
    out["map_pixel_values"] = torch.cat([inputs.map_pixel_values(each, np.float32) for each in case.members])
    out["map_clip_features"] = model.clip_features(out["map_pixel_values"])
    maps = out["map_features"] = model.vision_proj(out["map_clip_features"])
    text = _auxiliary(golden, case, found)
    out["aux_ids"], out["aux_attention_mask"] = text.ids, text.valid
    out["aux_embeds"] = model.auxiliary_embeddings(text, maps)
    auxiliary = out["compressed_aux"] = model.auxiliary(
        text, maps, mask_padding=REFERENCE.mask_auxiliary_padding
    )
    out["merged_inputs_embeds"] = model.embed(prompts.batch, features)

    cache = GrowingCache()
    with tracing(model) as seen:
        reading = model.read(prompts.batch, features, auxiliary, gate_dtype=_GATES, cache=cache)
    for name, tensor in seen.items():
        out[name] = _rows(name, tensor, reading.mixing)
    for (layer, side), weights in reading.mixing.gates.items():
        out[f"mixer{layer}.gate_{_SHORT[side]}"] = weights[reading.mixing.tokens(side).valid]
    out["hidden_last_position"] = last_positions(seen, model.dimensions.language.layers)
    out["layer0.k"], out["layer0.v"] = cache.layer(0)
    out["logits"] = model.logits(reading.states)
    out["logits_tail16"], out["logits_last"] = out["logits"][:, -_TAIL:], out["logits"][:, -1]

    def last(dtype: torch.dtype, overrides: GateOverrides | None = None) -> Tensor:
        rows = [overrides] * len(case.members)
        states = model.read(prompts.batch, features, auxiliary, overrides=rows, gate_dtype=dtype).states
        return model.last_logits(states)

    if "step2_logits_last" in case.tensors:
        out["step2_logits_last"] = last(torch.bfloat16)
    for image, language in product(range(len(EXPERTS)), repeat=2):
        name = f"step1_img{image}_lang{language}_logits_last"
        if name in case.tensors:
            alone = GateOverrides({"image": one_expert(image), "language": one_expert(language)})
            out[name] = last(_GATES, alone)

    def start() -> tuple[DecodingSession, Tensor]:
        fresh = GrowingCache()
        again = model.read(prompts.batch, features, auxiliary, gate_dtype=_GATES, cache=fresh)
        return DecodingSession(model, prompts.batch, fresh), model.last_logits(again.states)

    out.update(decode(golden, case, start))
    compare_texts(golden, case, prompts, out["greedy_ids"], found)
    return out


def compute_half(golden: GoldenVectors, case: GoldenCase, model: Moai) -> dict[str, Tensor]:
    """The tensors of a float16 run."""
    prompts = case_prompts(golden, case, model, case.told["prompts"], CaseDifferences())
    mean, std = normalisation_tables(np.float16)
    squashed = [inputs.image(case, member, model.dimensions.vision.image_size) for member in case.members]
    pixels = torch.cat([inputs.pixel_values(each, np.float16) for each in squashed])
    maps = torch.cat([inputs.map_pixel_values(each, np.float16) for each in case.members])
    text = _auxiliary(golden, case, CaseDifferences())
    auxiliary = model.auxiliary(text, model.image_features(maps), mask_padding=False)
    reading = model.read(prompts.batch, model.image_features(pixels), auxiliary, gate_dtype=_GATES)
    return {
        "mean": torch.from_numpy(np.asarray(mean)),
        "std": torch.from_numpy(np.asarray(std)),
        "pixel_values": pixels,
        "map_pixel_values": maps,
        "logits_last": model.last_logits(reading.states),
    }


def _auxiliary(golden: GoldenVectors, case: GoldenCase, found: CaseDifferences) -> AuxiliaryText:
    texts = []
    for member, listed, told in zip(
        case.members, inputs.segments(case), case.told["verbalisation"], strict=True
    ):
        regions = verbalize_regions(reference.panoptic_regions(inputs.grid(member), listed)).text
        found.equal("region sentence", regions, told["seg"])
        text = auxiliary_text({source: told[name] for source, name in _SOURCES.items()})
        found.equal("auxiliary text", text, told["aux"])
        texts.append(golden.tokenizer.encode(text))
    return auxiliary_batch(texts, golden.tokenizer.eos_id)


def _rows(name: str, tensor: Tensor, mixing: Mixing) -> Tensor:
    """Per-token parts of a mixer as (tokens, width), rows of a batch one after the other; the rest as it is."""
    if not name.startswith("mixer") or name.endswith((".pre", ".post")):
        return tensor
    part = name.split(".", maxsplit=1)[1]
    # An expert is named after the side that asks: CA_img_aux, SA_lang.
    image = part.split("_")[2] == "img" if part.startswith("expert") else part.endswith("_img")
    tokens: Tokens = mixing.image if image else mixing.language
    return tensor[tokens.valid]
