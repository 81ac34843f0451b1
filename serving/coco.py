"""The classes of COCO, in the order in which models trained on it number them.

COCO's own category ids (1-90, with gaps) appear only in annotation files; a model's class `i` is the category
with the i-th smallest id. The first 80 ids of COCO panoptic are these same 80 things, in this same order.
"""

from __future__ import annotations

COCO_80: tuple[str, ...] = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *(
        "elephant",
        "bear",
        "zebra",
        "giraffe",
        "backpack",
        "umbrella",
        "handbag",
        "tie",
        "suitcase",
        "frisbee",
    ),
    *(
        "skis",
        "snowboard",
        "sports ball",
        "kite",
        "baseball bat",
        "baseball glove",
        "skateboard",
        "surfboard",
    ),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard"),
    *(
        "cell phone",
        "microwave",
        "oven",
        "toaster",
        "sink",
        "refrigerator",
        "book",
        "clock",
        "vase",
        "scissors",
    ),
    *("teddy bear", "hair drier", "toothbrush"),
)
"""The 80 things, by class index."""

UNLABELLED_ID = 133
"""COCO panoptic numbers its classes 0-132; the next number stands for pixels that no segment claims."""

UNLABELLED = "unlabelled"
"""The label of `UNLABELLED_ID`."""
