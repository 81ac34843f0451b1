"""Names of classes and predicates, as both published systems write them.

Order of the classes: COCO panoptic (index = label id, 80 things, then 53 stuff classes). Order of the predicates:
the 56 of the Panoptic Scene Graph data set (index = column of the relation scores after "no relation").
"""

from __future__ import annotations

from typing import Final

COCO_PANOPTIC: Final[tuple[str, ...]] = tuple(
    """
    person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|parking meter
    |bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|handbag|tie|suitcase|frisbee
    |skis|snowboard|sports ball|kite|baseball bat|baseball glove|skateboard|surfboard|tennis racket|bottle
    |wine glass|cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake
    |chair|couch|potted plant|bed|dining table|toilet|tv|laptop|mouse|remote|keyboard|cell phone|microwave|oven
    |toaster|sink|refrigerator|book|clock|vase|scissors|teddy bear|hair drier|toothbrush
    |banner|blanket|bridge|cardboard|counter|curtain|door-stuff|floor-wood|flower|fruit|gravel|house|light
    |mirror-stuff|net|pillow|platform|playingfield|railroad|river|road|roof|sand|sea|shelf|snow|stairs|tent|towel
    |wall-brick|wall-stone|wall-tile|wall-wood|water-other|window-blind|window-other|tree-merged|fence-merged
    |ceiling-merged|sky-other-merged|cabinet-merged|table-merged|floor-other-merged|pavement-merged
    |mountain-merged|grass-merged|dirt-merged|paper-merged|food-other-merged|building-other-merged|rock-merged
    |wall-other-merged|rug-merged
    """.replace("\n", "")
    .replace("    ", "")
    .split("|")
)
"""The 133 class names; the one place that spells them with their suffixes."""

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
"""The 56 predicates."""

UNLABELLED: Final = "unlabelled"
"""Name of the segment that holds every pixel no expert could name; it is never put into words."""

_SUFFIXES: Final = ("-merged", "-other", "-stuff")


def display_name(label: str) -> str:
    """COCO-panoptic class name without `-merged`, `-other`, `-stuff` (removed wherever they stand)."""
    for suffix in _SUFFIXES:
        label = label.replace(suffix, "")
    return label
