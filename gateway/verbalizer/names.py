"""Names of predicates, and of classes (`serving.coco`) as they are spoken, as both published systems write them."""

from __future__ import annotations

from typing import Final

PSG_PREDICATES: Final[tuple[str, ...]] = tuple(
    """
    over|in front of|beside|on|in|attached to|hanging from|on back of|falling off|going down|painted on|walking on
    |running on|crossing|standing on|lying on|sitting on|flying over|jumping over|jumping from|wearing|holding
    |carrying|looking at|guiding|kissing|eating|drinking|feeding|biting|catching|picking|playing with|chasing
    |climbing|cleaning|playing|touching|pushing|pulling|opening|cooking|talking to|throwing|slicing|driving|riding
    |parked on|driving on|about to hit|kicking|swinging|entering|exiting|enclosing|leaning on
    """.replace("\n", "")
    .replace("    ", "")
    .split("|")
)
"""The 56 predicates of the Panoptic Scene Graph data set; index = column of the relation scores after "no relation"."""

_SUFFIXES: Final = ("-merged", "-other", "-stuff")


def display_name(label: str) -> str:
    """COCO-panoptic class name without `-merged`, `-other`, `-stuff` (removed wherever they stand)."""
    for suffix in _SUFFIXES:
        label = label.replace(suffix, "")
    return label
