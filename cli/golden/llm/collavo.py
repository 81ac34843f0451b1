"""Computes a golden case of CoLLaVO, from picture and segments to tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cli.golden.llm import inputs
from cli.golden.llm.answers import decode
from cli.golden.llm.prompts import CasePrompts, case_prompts, compare_texts
from cli.golden.llm.record import CaseDifferences
from cli.golden.llm.trace import last_positions, tracing
from cli.golden.llm.vectors import GoldenCase, GoldenVectors
from llm_server.models.collavo import Collavo
from llm_server.models.decoding import DecodingSession, GrowingCache
from llm_server.prompts.pixels import normalisation_tables

_TAIL = 16


def compute(
    golden: GoldenVectors, case: GoldenCase, model: Collavo, found: CaseDifferences
) -> dict[str, Tensor]:
    """Every tensor of a case by its golden name."""
    prompts = case_prompts(golden, case, model, inputs.crayon_questions(case), found)
    out = dict(prompts.tensors)
    squashed = [inputs.image(case, member, model.dimensions.vision.image_size) for member in case.members]
    out["image"] = torch.from_numpy(squashed[0])
    if "seg_class_logits" in case.tensors:
        out["segmentation"] = inputs.segmentation(case)
    out["crayon_class"], out["crayon_ordinal"] = inputs.crayon_maps(case)
    out["pixel_values"] = torch.cat([inputs.pixel_values(each, np.float32) for each in squashed])
    out["clip_features"] = model.clip_features(out["pixel_values"])
    features = out["image_features"] = model.vision_proj(out["clip_features"])
    embeds = model.crayon_embeddings(out["crayon_class"], out["crayon_ordinal"], unknown_beyond=False)
    crayon = model.crayon_features(out["crayon_class"], out["crayon_ordinal"], unknown_beyond=False)
    if embeds is None or crayon is None:
        raise TypeError("both tables are on, so there is a crayon prompt")
    out["seg_embeds"], out["seg_features"] = embeds, crayon
    out["merged_inputs_embeds"] = model.embed(prompts.batch, features)

    cache = GrowingCache()
    with tracing(model) as seen:
        states = model.read(prompts.batch, features, crayon=crayon, cache=cache)
    out.update(seen)
    out["hidden_last_position"] = last_positions(seen, model.dimensions.language.layers)
    out["layer0.k"], out["layer0.v"] = cache.layer(0)
    out["logits"] = model.logits(states)
    out["logits_tail16"], out["logits_last"] = out["logits"][:, -_TAIL:], out["logits"][:, -1]
    out["noseg_logits_last"] = model.last_logits(model.read(prompts.batch, features))

    def start() -> tuple[DecodingSession, Tensor]:
        fresh = GrowingCache()
        first = model.last_logits(model.read(prompts.batch, features, crayon=crayon, cache=fresh))
        return DecodingSession(model, prompts.batch, fresh), first

    out.update(decode(golden, case, start))
    compare_texts(golden, case, prompts, out["greedy_ids"], found)
    return out


def compute_half(golden: GoldenVectors, case: GoldenCase, model: Collavo) -> dict[str, Tensor]:
    """The tensors of a float16 run."""
    prompts: CasePrompts = case_prompts(golden, case, model, inputs.crayon_questions(case), CaseDifferences())
    mean, std = normalisation_tables(np.float16)
    squashed = [inputs.image(case, member, model.dimensions.vision.image_size) for member in case.members]
    pixels = torch.cat([inputs.pixel_values(each, np.float16) for each in squashed])
    crayon = model.crayon_features(*inputs.crayon_maps(case), unknown_beyond=False)
    states = model.read(prompts.batch, model.image_features(pixels), crayon=crayon)
    return {
        "mean": torch.from_numpy(np.asarray(mean)),
        "std": torch.from_numpy(np.asarray(std)),
        "pixel_values": pixels,
        "logits_last": model.last_logits(states),
    }
