"""How numbers become text in the published templates."""

from __future__ import annotations

from collections.abc import Sequence


def coordinate_text(value: float) -> str:
    """Two decimals, rounded from the exact value of the float; `-0.00` and values outside 0..1 stay as they are.

    The reference rounds the double that its float32 coordinate equals, so pass `float(numpy.float32(...))` where
    the last digit matters (0.005 as float32 lies below the half and gives `0.00`).
    """
    return f"{round(float(value), 2):.2f}"


def box_text(box: Sequence[float]) -> str:
    """`[0.00, 0.16, 0.29, 0.88]`: xyxy, in the order given."""
    return f"[{', '.join(coordinate_text(value) for value in box)}]"
