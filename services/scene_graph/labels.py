"""The 133 classes of COCO panoptic in the order in which models trained on it, PSG's among them, number them."""

from __future__ import annotations

from serving.coco import COCO_80

_STUFF: tuple[str, ...] = (
    *("banner", "blanket", "bridge", "cardboard", "counter", "curtain", "door-stuff", "floor-wood", "flower"),
    *("fruit", "gravel", "house", "light", "mirror-stuff", "net", "pillow", "platform", "playingfield"),
    *("railroad", "river", "road", "roof", "sand", "sea", "shelf", "snow", "stairs", "tent", "towel"),
    *("wall-brick", "wall-stone", "wall-tile", "wall-wood", "water-other", "window-blind", "window-other"),
    *("tree-merged", "fence-merged", "ceiling-merged", "sky-other-merged", "cabinet-merged", "table-merged"),
    *("floor-other-merged", "pavement-merged", "mountain-merged", "grass-merged", "dirt-merged"),
    *("paper-merged", "food-other-merged", "building-other-merged", "rock-merged", "wall-other-merged"),
    "rug-merged",
)

THINGS = len(COCO_80)
"""Classes below this number are countable things, the others stuff."""

COCO_PANOPTIC: tuple[str, ...] = (*COCO_80, *_STUFF)
"""80 things, then 53 kinds of stuff, spelled as COCO spells them."""
