"""Names of classes (`serving.coco`) as they are spoken, as both published systems write them."""

from __future__ import annotations

from typing import Final

_SUFFIXES: Final = ("-merged", "-other", "-stuff")


def display_name(label: str) -> str:
    """COCO-panoptic class name without `-merged`, `-other`, `-stuff` (removed wherever they stand)."""
    for suffix in _SUFFIXES:
        label = label.replace(suffix, "")
    return label
