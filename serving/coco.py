"""The classes of COCO, in the order in which models trained on it number them: the one place that spells them.

COCO's own category ids (1-200, with gaps) appear only in annotation files. A detector's class `i` is the thing with the
i-th smallest id; COCO panoptic begins with these same 80 things, in this same order, and 53 kinds of stuff follow
(https://github.com/cocodataset/panopticapi, `panoptic_coco_categories.json`).
"""

from __future__ import annotations

from typing import Final


def _names(table: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in table.split("|"))


COCO_80: Final[tuple[str, ...]] = _names(
    """
    person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|parking meter
    |bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|handbag|tie|suitcase|frisbee
    |skis|snowboard|sports ball|kite|baseball bat|baseball glove|skateboard|surfboard|tennis racket|bottle
    |wine glass|cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake
    |chair|couch|potted plant|bed|dining table|toilet|tv|laptop|mouse|remote|keyboard|cell phone|microwave|oven
    |toaster|sink|refrigerator|book|clock|vase|scissors|teddy bear|hair drier|toothbrush
    """
)
"""The 80 things, by class index."""

THINGS: Final = len(COCO_80)
"""Label ids below this number are countable things, the others stuff."""

_STUFF: Final = _names(
    """
    banner|blanket|bridge|cardboard|counter|curtain|door-stuff|floor-wood|flower|fruit|gravel|house|light
    |mirror-stuff|net|pillow|platform|playingfield|railroad|river|road|roof|sand|sea|shelf|snow|stairs|tent|towel
    |wall-brick|wall-stone|wall-tile|wall-wood|water-other|window-blind|window-other|tree-merged|fence-merged
    |ceiling-merged|sky-other-merged|cabinet-merged|table-merged|floor-other-merged|pavement-merged
    |mountain-merged|grass-merged|dirt-merged|paper-merged|food-other-merged|building-other-merged|rock-merged
    |wall-other-merged|rug-merged
    """
)

COCO_PANOPTIC: Final[tuple[str, ...]] = (*COCO_80, *_STUFF)
"""The 133 classes of COCO panoptic by label id: 80 things, then 53 kinds of stuff, spelled as COCO spells them."""

UNLABELLED_ID: Final = len(COCO_PANOPTIC)
"""The number after the last class: it stands for pixels that no segment claims."""

UNLABELLED: Final = "unlabelled"
"""The label of `UNLABELLED_ID`."""
