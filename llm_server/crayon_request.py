"""Crayon maps of a request: checked, and as arrays."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from polysight.llm.v1 import generation_pb2
from serving.errors import CrayonMalformedError

# COCO panoptic classes + 1, and instances of one class: 0 is unknown in both (contract, CrayonMaps).
_MOST_CLASS_INDEX: Final = 133
_MOST_ORDINAL: Final = 20


def check_crayon(
    maps: generation_pb2.CrayonMaps | None, grid: tuple[int, int] | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Class indices and ordinals (rows * columns,), row by row; nothing is known of any cell without ``maps``.

    Raises CrayonMalformedError unless both maps fill their grid and stay within their vocabulary, and the grid is
    ``grid`` (rows, columns); None for any.
    """
    if maps is None:
        rows, columns = grid or (0, 0)
        nothing = np.zeros(rows * columns, np.uint8)
        return nothing, nothing
    expected = maps.height * maps.width
    if grid is not None and (maps.height, maps.width) != grid:
        raise CrayonMalformedError(
            f"crayon is {maps.height} x {maps.width}; this model takes {grid[0]} x {grid[1]}",
            metadata={"field": "height, width", "expected": f"{grid[0]}x{grid[1]}"},
        )
    for name, cells, most in (
        ("class_indices", maps.class_indices, _MOST_CLASS_INDEX),
        ("instance_ordinals", maps.instance_ordinals, _MOST_ORDINAL),
    ):
        if expected == 0 or len(cells) != expected:
            raise CrayonMalformedError(
                f"crayon.{name} has {len(cells)} bytes; a grid of {maps.height} x {maps.width} has {expected}",
                metadata={"field": name, "expected_bytes": str(expected), "actual_bytes": str(len(cells))},
            )
        if max(cells) > most:
            raise CrayonMalformedError(
                f"crayon.{name} holds {max(cells)}; the largest index is {most}",
                metadata={"field": name, "largest": str(max(cells)), "limit": str(most)},
            )
    return np.frombuffer(maps.class_indices, np.uint8), np.frombuffer(maps.instance_ordinals, np.uint8)
