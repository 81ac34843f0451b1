"""Other words for the 80 classes of COCO: names that mean one class, words that cover several, odd plurals.

A name stands here when whatever it names is, to anyone, an instance of the class. That the model cannot tell a man
from a woman does not hurt: it reports a person, under the label "person". Words that often mean something else, such as
"glasses" or "computer", stand nowhere: to call them invisible is the smaller mistake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_BY_LABEL: Mapping[str, str] = {
    "person": "people, human, man, woman, boy, girl, child, kid, baby, toddler, adult, pedestrian, lady, gentleman",
    "bicycle": "bike, pushbike, cycle",
    "car": "automobile, auto, sedan, hatchback, taxi, cab, suv",
    "motorcycle": "motorbike, scooter, moped",
    "airplane": "aeroplane, plane, aircraft, jet, airliner",
    "bus": "coach, double decker, school bus, minibus",
    "train": "locomotive, tram, streetcar",
    "truck": "lorry, pickup, pickup truck, fire truck, fire engine",
    "boat": "ship, sailboat, rowboat, canoe, kayak, yacht, ferry, motorboat",
    "traffic light": "traffic signal, stoplight, stop light",
    "fire hydrant": "hydrant",
    "cat": "kitten, kitty",
    "dog": "puppy, doggy",
    "horse": "pony, foal",
    "sheep": "lamb, ewe",
    "cow": "cattle, calf, bull, ox",
    "bird": "pigeon, gull, seagull, sparrow, duck, goose, parrot",
    "elephant": "baby elephant",
    "bear": "polar bear, grizzly, grizzly bear, brown bear",
    "backpack": "rucksack, knapsack",
    "umbrella": "parasol",
    "handbag": "purse",
    "tie": "necktie, bow tie",
    "suitcase": "luggage, baggage",
    "skis": "ski",
    "sports ball": "ball, football, soccer ball, basketball, tennis ball, baseball, volleyball",
    "baseball glove": "baseball mitt",
    "tennis racket": "tennis racquet, racket, racquet",
    "wine glass": "wineglass, goblet",
    "cup": "mug, teacup, coffee cup",
    "donut": "doughnut",
    "hot dog": "hotdog",
    "chair": "armchair, stool",
    "couch": "sofa, settee, loveseat",
    "potted plant": "houseplant, house plant, pot plant",
    "dining table": "table",
    "toilet": "lavatory, toilet bowl",
    "tv": "television, tv set, television set, telly, monitor, screen, computer monitor",
    "laptop": "notebook computer, laptop computer",
    "mouse": "computer mouse",
    "remote": "remote control",
    "keyboard": "computer keyboard",
    "cell phone": "mobile phone, mobile, phone, smartphone, cellphone, telephone",
    "microwave": "microwave oven",
    "oven": "stove, cooker",
    "sink": "washbasin, wash basin, basin",
    "refrigerator": "fridge, freezer",
    "clock": "wall clock, alarm clock",
    "teddy bear": "teddy",
    "hair drier": "hair dryer, hairdryer, blow dryer",
}

NAMES: Mapping[str, str] = {name: label for label, names in _BY_LABEL.items() for name in names.split(", ")}
"""Another name: the label it means."""

_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
_FRUIT = ("banana", "apple", "orange")
_VEGETABLES = ("broccoli", "carrot")
_CUTLERY = ("fork", "knife", "spoon")

GROUPS: Mapping[str, Sequence[str]] = {
    "vehicle": ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    "motor vehicle": ("car", "motorcycle", "bus", "truck"),
    "animal": _ANIMALS,
    "mammal": _ANIMALS[1:],
    "pet": ("cat", "dog"),
    "fruit": _FRUIT,
    "vegetable": _VEGETABLES,
    "food": (*_FRUIT, *_VEGETABLES, "sandwich", "hot dog", "pizza", "donut", "cake"),
    "furniture": ("bench", "chair", "couch", "bed", "dining table"),
    "seat": ("bench", "chair", "couch"),
    "cutlery": _CUTLERY,
    "utensil": _CUTLERY,
    "silverware": _CUTLERY,
    "tableware": (*_CUTLERY, "wine glass", "cup", "bowl"),
    "bag": ("backpack", "handbag", "suitcase"),
    "electronics": ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    "electronic device": ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    "appliance": ("microwave", "oven", "toaster", "sink", "refrigerator", "hair drier"),
    "sports equipment": (
        *(
            "frisbee",
            "skis",
            "snowboard",
            "sports ball",
            "kite",
            "baseball bat",
            "baseball glove",
            "skateboard",
        ),
        *("surfboard", "tennis racket"),
    ),
}
"""A word: the labels it covers."""

IRREGULAR_PLURALS: Mapping[str, str] = {
    "people": "person",
    "persons": "person",
    "men": "man",
    "women": "woman",
    "gentlemen": "gentleman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "oxen": "ox",
    "calves": "calf",
    "knives": "knife",
}
"""The last word of a plural: its singular, where no rule gives it."""
