"""Display names of classes, as both published systems write them."""

from __future__ import annotations

_SUFFIXES = ("-merged", "-other", "-stuff")

UNLABELLED = "unlabelled"
"""Name of the segment that holds every pixel no expert could name; it is never put into words."""


def display_name(label: str) -> str:
    """COCO-panoptic class name without `-merged`, `-other`, `-stuff` (removed wherever they stand)."""
    for suffix in _SUFFIXES:
        label = label.replace(suffix, "")
    return label
