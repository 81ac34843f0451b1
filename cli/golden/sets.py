"""Reads a golden set: a folder with `prompts/` (JSON and safetensors a model) and `checkpoints/` (tokenizers)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.crayon import GridSegment
from llm_server.prompts.intern_tokenizer import InternTokenizer


class GoldenSetError(ValueError):
    """The folder is not laid out like a golden set."""


class Tensors:
    """Arrays of a safetensors file; remembers which were asked for."""

    def __init__(self, path: Path) -> None:
        from safetensors.numpy import load_file

        self._arrays: dict[str, NDArray[Any]] = load_file(path) if path.exists() else {}
        self._asked: set[str] = set()

    def __getitem__(self, name: str) -> NDArray[Any]:
        self._asked.add(name)
        return self._arrays[name]

    def names(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`."""
        return sorted(name for name in self._arrays if name.startswith(prefix))

    def unasked(self) -> list[str]:
        """Arrays that nobody asked for."""
        return sorted(self._arrays.keys() - self._asked)


class GoldenPrompts:
    """The prompts of one model in a golden set.

    Raises:
        GoldenSetError: there is no `prompts/{model}.json`, or no tokenizer for the model.
    """

    def __init__(self, folder: Path, model: str) -> None:
        path = folder / "prompts" / f"{model}.json"
        if not path.exists():
            raise GoldenSetError(f"{path} does not exist")
        self.model = model
        self.sections: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.tensors = Tensors(path.with_suffix(".safetensors"))
        tokenizers = sorted(folder.glob(f"checkpoints/{model}*/tokenizer.model"))
        if not tokenizers:
            raise GoldenSetError(f"no checkpoints/{model}*/tokenizer.model in {folder}")
        self.tokenizer = InternTokenizer(tokenizers[0])

    def cases(self, section: str) -> Sequence[Mapping[str, Any]]:
        """The cases of a section; none if the set has no such section."""
        cases: Sequence[Mapping[str, Any]] = self.sections.get(section, ())
        return cases

    def sections_but(self, known: Sequence[str]) -> list[str]:
        """Sections with cases in them that are not among `known`."""
        return [
            name
            for name, value in self.sections.items()
            if name not in known and isinstance(value, list | dict)
        ]


def painted(case: Mapping[str, Any], size: Sequence[int]) -> NDArray[np.int32]:
    """(H, W) grid of segment ids: rectangles [id, x0, y0, x1, y1] (max exclusive) painted in order on a background."""
    grid = np.full((size[0], size[1]), case["background"], np.int32)
    for segment_id, x0, y0, x1, y1 in case["paint"]:
        grid[y0:y1, x0:x1] = segment_id
    return grid


def listed_segments(case: Mapping[str, Any]) -> list[GridSegment]:
    """Segments of a case in the order listed."""
    return [GridSegment(info["id"], info["label_id"]) for info in case["segments_info"]]
