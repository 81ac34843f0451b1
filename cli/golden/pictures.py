"""Compares what happens to pixels and position tables with the golden sets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.golden.record import Case
from cli.golden.sets import Tensors
from llm_server.models.clip_positions import stretch_positions
from llm_server.prompts.pixels import squash_demo, squash_eval


def compare_squash(case: Case, *, wanted: Mapping[str, Any], places: Sequence[Sequence[int]]) -> None:
    """One picture, given by formula, squashed both ways; compared by hash, sum and samples."""
    picture = _picture(wanted)
    squashed = {"demo": squash_demo(picture), "eval": squash_eval(picture)}
    for way, ours in squashed.items():
        golden = wanted[way]
        case.equal(f"{way} samples", [int(ours[c, y, x]) for y, x, c in places], golden["samples"])
        case.equal(f"{way} sum", int(ours.sum(dtype=np.int64)), golden["sum"])
        case.equal(f"{way} hash", hashlib.sha256(ours.tobytes()).hexdigest(), golden["sha256_chw_uint8"])
    apart = int(np.abs(squashed["demo"].astype(np.int16) - squashed["eval"]).max())
    case.equal("greatest difference of the two ways", apart, wanted["max_abs_difference_demo_vs_eval"])


def _picture(wanted: Mapping[str, Any]) -> NDArray[np.uint8]:
    """(H, W, 3): value[y, x, c] = (x*a + y*b + c*d + (x*y)//e) mod 256."""
    y, x, c = np.ogrid[: wanted["height"], : wanted["width"], :3]
    values = x * wanted["a"] + y * wanted["b"] + c * wanted["d"] + (x * y) // wanted["e"]
    picture: NDArray[np.uint8] = (values % 256).astype(np.uint8)
    return picture


def compare_positions(case: Case, *, tensors: Tensors) -> None:
    """The position table of the vision tower, stretched to the golden one's size."""
    (before,) = tensors.names("clip_position.input")
    (after,) = tensors.names("clip_position.output")
    golden = tensors[after]
    ours = stretch_positions(tensors[before], round((len(golden) - 1) ** 0.5))
    case.equal("shape and type", (ours.shape, str(ours.dtype)), (golden.shape, str(golden.dtype)))
    apart = float(np.abs(ours - golden).max()) if ours.shape == golden.shape else float("inf")
    case.holds(f"differs by up to {apart}", apart == 0.0)
