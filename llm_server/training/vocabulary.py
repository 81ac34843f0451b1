"""The nouns of the generated scenes: classes, their plurals, synonyms and categories.

Class names are those of COCO-80 (what the default experts see) and some COCO-panoptic "stuff" names with their
suffix stripped (what a panoptic expert with stuff classes says). Pure data: no torch, no numpy.
"""

from __future__ import annotations

from typing import Final

from serving.coco import COCO_80


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split("|"))


THINGS: Final[tuple[str, ...]] = COCO_80

STUFF: Final[tuple[str, ...]] = _split(
    "road|grass|sky|tree|building|wall|floor|water|sand|sea|pavement|snow|fence|mountain|house|window|"
    "curtain|rug|cabinet|shelf|counter|table|river|bridge|dirt|rock|ceiling|playingfield|railroad|door|"
    "mirror|flower|pillow|blanket"
)

#: Names that take no article and are not counted in questions.
UNCOUNTED: Final[frozenset[str]] = frozenset(
    {
        "grass",
        "sky",
        "water",
        "sand",
        "snow",
        "dirt",
        "sea",
        "broccoli",
        "skis",
        "scissors",
        "playingfield",
        "railroad",
    }
)

_IRREGULAR: Final[dict[str, str]] = {
    "person": "people",
    "bus": "buses",
    "bench": "benches",
    "sheep": "sheep",
    "couch": "couches",
    "sandwich": "sandwiches",
    "wine glass": "wine glasses",
    "knife": "knives",
    "shelf": "shelves",
    "toothbrush": "toothbrushes",
    "mouse": "mice",
    "skis": "skis",
    "scissors": "scissors",
    "broccoli": "broccoli",
    "tv": "TVs",
}

#: Other words a person may ask with; each maps to (singular, plural).
SYNONYMS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "person": (("person", "persons"), ("human", "humans"), ("person", "people")),
    "bicycle": (("bike", "bikes"),),
    "motorcycle": (("motorbike", "motorbikes"),),
    "airplane": (("plane", "planes"), ("aeroplane", "aeroplanes")),
    "couch": (("sofa", "sofas"),),
    "tv": (("television", "televisions"),),
    "cell phone": (("phone", "phones"), ("mobile phone", "mobile phones")),
    "potted plant": (("plant", "plants"),),
    "dining table": (("table", "tables"),),
    "refrigerator": (("fridge", "fridges"),),
    "sports ball": (("ball", "balls"),),
    "handbag": (("purse", "purses"),),
    "donut": (("doughnut", "doughnuts"),),
}

CATEGORIES: Final[dict[str, tuple[str, ...]]] = {
    "vehicle": _split("bicycle|car|motorcycle|airplane|bus|train|truck|boat"),
    "animal": _split("bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe"),
    "food": _split("banana|apple|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake"),
    "furniture": _split("chair|couch|bed|dining table|bench"),
    "electronic device": _split("tv|laptop|mouse|remote|keyboard|cell phone"),
    "kitchen appliance": _split("microwave|oven|toaster|sink|refrigerator"),
    "fruit": _split("banana|apple|orange"),
    "sports equipment": _split(
        "frisbee|skis|snowboard|sports ball|kite|baseball bat|baseball glove|skateboard|surfboard|"
        "tennis racket"
    ),
}

#: Categories asked without a plural ("What food is ...").
MASS_CATEGORIES: Final[frozenset[str]] = frozenset({"food", "furniture", "fruit", "sports equipment"})


def plural(name: str) -> str:
    """The plural of a class or category name: ``bus`` -> ``buses``, ``person`` -> ``people``."""
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    head, _, last = name.rpartition(" ")
    if last in _IRREGULAR and head:
        return f"{head} {_IRREGULAR[last]}"
    return f"{name}es" if name.endswith(("s", "sh", "ch", "x")) else f"{name}s"


def article(name: str) -> str:
    """``a bus``, ``an apple``, and ``grass`` for what takes none."""
    if name in UNCOUNTED:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
