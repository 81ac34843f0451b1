"""Reads the golden vectors of one model: tensors and texts per case, and the checkpoint they were made with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cli.golden.sets import GoldenSetError
from llm_server.prompts.intern_tokenizer import InternTokenizer
from llm_server.prompts.internlm import TURN_END

_FP16 = "fp16."


class GoldenCase:
    """One case: texts and metadata, tensors by name, and the cases that a batch is made of (else itself)."""

    def __init__(
        self, name: str, told: Mapping[str, Any], tensors: Mapping[str, Tensor], fp16: Mapping[str, Tensor]
    ) -> None:
        self.name, self.told, self.tensors, self.fp16 = name, told, tensors, fp16
        self.members: Sequence[GoldenCase] = (self,)

    @property
    def template(self) -> Any:
        """Which prompt template, "demo" or "eval"."""
        return self.told["template"]


class GoldenVectors:
    """`vectors/{model}.{json,safetensors}` and `checkpoints/{model}/` of a golden set.

    Raises:
        GoldenSetError: one of them is missing or cannot be read, or a batch names a case that is not there.
    """

    def __init__(self, folder: Path, model: str) -> None:
        path = folder / "vectors" / f"{model}.json"
        self.checkpoint = folder / "checkpoints" / model
        for needed in (path, path.with_suffix(".safetensors"), self.checkpoint / "tokenizer.model"):
            if not needed.exists():
                raise GoldenSetError(f"{needed} does not exist")
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            tensors = load_file(path.with_suffix(".safetensors"))
            self.tokenizer = InternTokenizer(self.checkpoint / "tokenizer.model")
            cases: Mapping[str, Mapping[str, Any]] = told["cases"]
            self.cases = {
                name: GoldenCase(name, case, _of(tensors, f"{name}."), _of(tensors, f"{_FP16}{name}."))
                for name, case in cases.items()
            }
            for case in self.cases.values():
                if case.told.get("batch_of"):
                    case.members = [self.cases[member] for member in case.told["batch_of"]]
        except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise GoldenSetError(f"{path} is not a set of golden vectors: {error!r}") from error
        self.max_new: int = told["n_new"]
        known = [f"{name}." for name in cases] + [f"{_FP16}{name}." for name in cases]
        self.stray = sorted(key for key in tensors if not any(key.startswith(prefix) for prefix in known))
        beams = [case.tensors["beam3_ids"] for case in self.cases.values() if "beam3_ids" in case.tensors]
        self.max_new_beam = max((ids.shape[1] for ids in beams), default=0)

    @property
    def turn_end_id(self) -> int:
        """Id of the end-of-turn token."""
        return self.tokenizer.encode(TURN_END, bos=False)[-1]


def _of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def strip_padding(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """Ids of each row without its padding."""
    return [row[kept.to(torch.bool)].tolist() for row, kept in zip(ids, mask, strict=True)]
