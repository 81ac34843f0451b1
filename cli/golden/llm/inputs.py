"""From what a golden case gives (picture, segments, question) to what a model is given, by the project's own code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cli.golden.llm.vectors import GoldenCase
from gateway import reference
from gateway.crayon import GridSegment
from gateway.verbalizer import crayon_question, verbalize_collavo
from llm_server.models.prompt_batch import PromptBatch
from llm_server.prompts.colour_map import as_model_input, colour_map
from llm_server.prompts.internlm import prompt
from llm_server.prompts.pixels import normalise, squash_demo, squash_eval
from services.panoptic.mask2former.published import Thresholds, publish
from services.panoptic.mask2former.queries import sure_queries


def image(case: GoldenCase, member: GoldenCase, side: int) -> NDArray[np.uint8]:
    """The picture of a member, squashed to (C, side, side) uint8 the way of the case's template."""
    raw: NDArray[np.uint8] = member.tensors["image_raw"].numpy()
    # The demo squashes all channels and drops a fourth one later; the evaluation reads RGB.
    return squash_demo(raw, side) if case.template == "demo" else squash_eval(raw[..., :3], side)


def pixel_values(squashed: NDArray[np.uint8], dtype: type[np.float32] | type[np.float16]) -> Tensor:
    """(1, 3, side, side) normalised pixels of a squashed picture."""
    return torch.from_numpy(np.asarray(normalise(squashed[None, :3], dtype)))


def map_pixel_values(member: GoldenCase, dtype: type[np.float32] | type[np.float16]) -> Tensor:
    """(1, 3, side, side) normalised pixels of a member's colour map."""
    colours = as_model_input(colour_map(grid(member)))
    return torch.from_numpy(np.asarray(normalise(colours, dtype)))


def grid(member: GoldenCase) -> NDArray[np.int32]:
    """The golden map of segment ids."""
    return member.tensors["segmentation"].to(torch.int32).numpy()


def segmentation(member: GoldenCase) -> Tensor:
    """Our map of segment ids, from the panoptic network's logits; sizes as of the golden one."""
    height, width = member.tensors["segmentation"].shape
    arguments: Any = reference.panoptic_arguments(height, width)
    thresholds = Thresholds(arguments["threshold"], arguments["mask_threshold"], 0.8)
    (classes,) = member.tensors["seg_class_logits"].numpy()
    (masks,) = member.tensors["seg_mask_logits"].numpy()
    queries = sure_queries(classes, masks, thresholds.score)
    found = publish(queries, (height, width), thresholds, arguments["label_ids_to_fuse"])
    return torch.from_numpy(np.ascontiguousarray(found.segmentation).astype(np.int64))


def segments(case: GoldenCase) -> list[list[GridSegment]]:
    """Segments of each member in the order listed."""
    return [
        [GridSegment(part["id"], part["label_id"]) for part in listed]
        for listed in case.told["segments_info"]
    ]


def crayon_maps(case: GoldenCase) -> tuple[Tensor, Tensor]:
    """Class and ordinal maps (B, N) of the members, row by row of the grid."""
    maps = [
        reference.crayon_maps(grid(member), listed)
        for member, listed in zip(case.members, segments(case), strict=True)
    ]
    classes = np.stack([each.classes.ravel() for each in maps]).astype(np.int64)
    ordinals = np.stack([each.ordinals.ravel() for each in maps]).astype(np.int64)
    return torch.from_numpy(classes), torch.from_numpy(ordinals)


def crayon_questions(case: GoldenCase) -> list[str]:
    """Questions with their crayon sentence in front."""
    return [
        crayon_question(verbalize_collavo(reference.crayon_objects(grid(member), listed)), question)
        for member, listed, question in zip(case.members, segments(case), case.told["prompts"], strict=True)
    ]


def prompt_texts(case: GoldenCase, questions: list[str]) -> list[str]:
    """Prompts of a case."""
    return [prompt(question, case.template) for question in questions]


def batch_tensors(batch: PromptBatch, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Ids and masks of a batch under their golden names; ``ids`` and ``mask`` are from before the image tokens."""
    valid = batch.valid.long()
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "im_mask": batch.image,
        "lang_mask": batch.language,
        "merged_attention_mask": valid,
        # What the published code computes and ignores: positions without the padding, and 1 in it.
        "merged_position_ids": (valid.cumsum(dim=1) - 1).masked_fill(valid == 0, 1),
    }


def padded(texts: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids padded on the left and their mask, both (B, T) int64."""
    longest = max(map(len, texts))
    ids = [[pad_id] * (longest - len(text)) + text for text in texts]
    mask = [[0] * (longest - len(text)) + [1] * len(text) for text in texts]
    return torch.tensor(ids), torch.tensor(mask)
