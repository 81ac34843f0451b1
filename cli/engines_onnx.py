"""Graphs of one's own for `polysight engines`: an exported file, or the folder that an expert's `export.py` wrote.

A server finds the plan of a file by the file's stem, and those of an OWLv2 folder by the folder's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.engine.graph import ExportedGraph
from serving.engine.precision import read_inputs
from serving.engine.protocol import EngineError, TensorSpec
from serving.engine.tensorrt import Profile, ShapeRange
from serving.engine.tensorrt.profiles import parse_range

Ranges = Mapping[str, Sequence[ShapeRange]]
"""By input; one a profile."""

# Phrases that the server's text tower reads at once.
_PHRASES = 64


def parse_shapes(texts: Sequence[str]) -> dict[str, list[ShapeRange]]:
    """The ranges of `NAME=MIN:OPT:MAX`, such as `pixel_values=1x3x64x64:4x3x64x64:8x3x64x64`, by input.

    A name that comes again is for the next profile. Raises EngineError for what is written otherwise.
    """
    ranges: dict[str, list[ShapeRange]] = {}
    for text in texts:
        name, _, shapes = text.partition("=")
        if not name or not shapes:
            raise EngineError(f"--shape {text!r}: write NAME=1x3x64x64:4x3x64x64:8x3x64x64")
        ranges.setdefault(name, []).append(parse_range(shapes))
    return ranges


def own_graphs(path: Path, *, name: str = "", ranges: Ranges, max_batch: int) -> list[ExportedGraph]:
    """The graph of a file, called `name` or as the file is; or every graph of a folder.

    An input that `ranges` does not name must be free in its batch alone, and takes 1 to `max_batch` (phrases of OWLv2:
    at least 64). Raises EngineError saying what is wrong and what to write.
    """
    if path.is_dir():
        from services.detection.owlv2.bundle import IMAGE, SHEET, TEXT

        if name:
            raise EngineError(f"{path} is a folder: --name is for one file")
        if (path / SHEET).is_file():
            halves = {IMAGE: max_batch, TEXT: max(max_batch, _PHRASES)}
            return [
                _graph(path / file, f"{path.resolve().name}-{Path(file).stem}", ranges, largest)
                for file, largest in halves.items()
            ]
        if not (files := sorted(path.glob("*.onnx"))):
            raise EngineError(f"{path}: no .onnx file in it")
        return [_graph(file, file.stem, ranges, max_batch) for file in files]
    return [_graph(path, name or path.stem, ranges, max_batch)]


def _graph(file: Path, name: str, ranges: Ranges, max_batch: int) -> ExportedGraph:
    if not (name[:1].isalnum() and all(each.isalnum() or each in "._-" for each in name) and name.isascii()):
        raise EngineError(
            f"{name!r} cannot be a plan's name: letters, digits, dots, _ and - alone; rename it"
        )
    inputs = read_inputs(file)
    if unknown := ranges.keys() - {spec.name for spec in inputs}:
        takes = "; ".join(map(str, inputs))
        raise EngineError(f"{file.name} has no input {', '.join(sorted(unknown))}; it takes {takes}")
    given = {len(ranges[spec.name]) for spec in inputs if spec.name in ranges} or {1}
    if len(given) > 1:
        raise EngineError(f"{file.name}: every input needs --shape as often as the others, once a profile")
    profiles = tuple(
        Profile(
            shapes={
                spec.name: ranges[spec.name][index]
                if spec.name in ranges
                else _batches(file, spec, max_batch)
                for spec in inputs
            }
        )
        for index in range(given.pop())
    )
    for profile in profiles:
        profile.check(inputs)
    smallest = min(profiles, key=_least)
    full = file.resolve()
    return ExportedGraph(
        name,
        lambda _: full,
        profiles,
        {input_name: shape.min for input_name, shape in smallest.shapes.items()},
        file=str(full),
    )


def _batches(file: Path, spec: TensorSpec, max_batch: int) -> ShapeRange:
    """Every batch up to the largest, where nothing else is free."""
    batch, rest = spec.shape[:1], spec.shape[1:]
    fixed = tuple(size for size in rest if isinstance(size, int))
    if len(fixed) != len(rest):
        example = ":".join(
            "x".join(str(s) if isinstance(s, int) else s.upper() for s in spec.shape) for _ in "123"
        )
        raise EngineError(
            f"{file.name}: {spec} is free in more than its batch; say which sizes to build for, least, likeliest and "
            f"largest: --shape {spec.name}={example}"
        )
    if all(isinstance(size, int) for size in batch):
        whole = (*(size for size in batch if isinstance(size, int)), *fixed)
        return ShapeRange(min=whole, opt=whole, max=whole)
    return ShapeRange(min=(1, *fixed), opt=((max_batch + 1) // 2, *fixed), max=(max_batch, *fixed))


def _least(profile: Profile) -> int:
    return sum(math.prod(shape.min) for shape in profile.shapes.values())
