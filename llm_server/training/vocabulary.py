"""The words of the generated scenes: classes, their plurals and categories, what goes together, the 56 predicates.

Class names are those of COCO-80 (what the default experts see) and some COCO-panoptic "stuff" names with their
suffix stripped (what a panoptic expert with stuff classes says). Predicates are those of the PSG vocabulary.
Pure data: no torch, no numpy.
"""

from __future__ import annotations

from typing import Final

THINGS: Final[tuple[str, ...]] = tuple(
    "person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|parking meter|bench|"
    "bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|handbag|tie|suitcase|frisbee|skis|snowboard|"
    "sports ball|kite|baseball bat|baseball glove|skateboard|surfboard|tennis racket|bottle|wine glass|cup|fork|knife|spoon|"
    "bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake|chair|couch|potted plant|bed|dining table|"
    "toilet|tv|laptop|mouse|remote|keyboard|cell phone|microwave|oven|toaster|sink|refrigerator|book|clock|vase|scissors|"
    "teddy bear|hair drier|toothbrush".split("|")
)

STUFF: Final[tuple[str, ...]] = tuple(
    "road|grass|sky|tree|building|wall|floor|water|sand|sea|pavement|snow|fence|mountain|house|window|curtain|rug|cabinet|"
    "shelf|counter|table|river|bridge|dirt|rock|ceiling|playingfield|railroad|door|mirror|flower|pillow|blanket".split(
        "|"
    )
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
    "vehicle": ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    "animal": ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    "food": ("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    "furniture": ("chair", "couch", "bed", "dining table", "bench"),
    "electronic device": ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    "kitchen appliance": ("microwave", "oven", "toaster", "sink", "refrigerator"),
    "fruit": ("banana", "apple", "orange"),
    "sports equipment": (
        "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
        "surfboard", "tennis racket",
    ),
}  # fmt: skip

#: Categories asked without a plural ("What food is ...").
MASS_CATEGORIES: Final[frozenset[str]] = frozenset({"food", "furniture", "fruit", "sports equipment"})

#: What tends to be seen together: a place draws most of its objects from its own row.
PLACES: Final[dict[str, tuple[str, ...]]] = {
    "street": (
        "person", "person", "car", "car", "bus", "truck", "bicycle", "motorcycle", "traffic light", "stop sign",
        "parking meter", "fire hydrant", "bench", "backpack", "handbag", "umbrella", "dog", "road", "building",
    ),
    "kitchen": (
        "person", "refrigerator", "oven", "microwave", "sink", "toaster", "bottle", "cup", "bowl", "knife", "spoon",
        "dining table", "chair", "counter", "cabinet", "window",
    ),
    "meal": (
        "person", "dining table", "chair", "pizza", "sandwich", "cake", "donut", "hot dog", "fork", "knife", "spoon",
        "cup", "wine glass", "bottle", "bowl", "banana", "apple", "orange", "carrot", "broccoli",
    ),
    "office": (
        "person", "laptop", "tv", "keyboard", "mouse", "cell phone", "book", "chair", "dining table", "cup", "clock",
        "potted plant", "bottle", "window",
    ),
    "living room": (
        "person", "couch", "tv", "remote", "chair", "potted plant", "vase", "book", "clock", "cat", "dog", "rug",
        "curtain", "teddy bear", "laptop",
    ),
    "bedroom": ("bed", "person", "teddy bear", "book", "clock", "cat", "dog", "laptop", "cell phone", "pillow", "window"),
    "bathroom": ("toilet", "sink", "toothbrush", "hair drier", "bottle", "person", "mirror", "cup"),
    "animals": (
        "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "bird", "dog", "cat", "person", "grass",
        "tree", "fence",
    ),
    "sport": (
        "person", "person", "person", "sports ball", "tennis racket", "baseball bat", "baseball glove", "skateboard",
        "frisbee", "kite", "bench", "bottle", "playingfield", "grass",
    ),
    "winter": ("person", "person", "skis", "snowboard", "backpack", "snow", "mountain", "tree"),
    "water": ("person", "boat", "boat", "surfboard", "bird", "sea", "sand", "umbrella", "kite", "dog", "chair"),
    "station": ("train", "person", "person", "suitcase", "backpack", "handbag", "bench", "clock", "railroad", "tie"),
    "airport": ("airplane", "airplane", "person", "truck", "car", "suitcase", "backpack", "sky", "road"),
    "portrait": ("person", "person", "tie", "cell phone", "wine glass", "cup", "book", "umbrella", "backpack"),
}  # fmt: skip

PREDICATES: Final[tuple[str, ...]] = tuple(
    "over|in front of|beside|on|in|attached to|hanging from|on back of|falling off|going down|painted on|walking on|"
    "running on|crossing|standing on|lying on|sitting on|flying over|jumping over|jumping from|wearing|holding|carrying|"
    "looking at|guiding|kissing|eating|drinking|feeding|biting|catching|picking|playing with|chasing|climbing|cleaning|"
    "playing|touching|pushing|pulling|opening|cooking|talking to|throwing|slicing|driving|riding|parked on|driving on|"
    "about to hit|kicking|swinging|entering|exiting|enclosing|leaning on".split("|")
)

#: What the geometric scene-graph backend says; the rest needs a trained one.
GEOMETRIC: Final[tuple[str, ...]] = (
    "beside",
    "over",
    "in front of",
    "on",
    "in",
    "enclosing",
    "attached to",
    "touching",
)

#: Likely triples with a person as subject: predicate -> objects.
PERSON_ACTIONS: Final[dict[str, tuple[str, ...]]] = {
    "riding": ("bicycle", "motorcycle", "horse", "elephant", "skateboard", "surfboard", "snowboard", "skis", "bus", "train"),
    "driving": ("car", "truck", "bus", "boat", "motorcycle"),
    "wearing": ("tie", "backpack", "skis", "baseball glove", "handbag"),
    "holding": (
        "umbrella", "cup", "bottle", "cell phone", "tennis racket", "baseball bat", "book", "remote", "wine glass", "knife",
        "handbag", "surfboard", "kite", "frisbee", "teddy bear", "toothbrush", "laptop", "sandwich", "banana", "fork",
    ),
    "carrying": ("backpack", "suitcase", "handbag", "surfboard", "skis", "snowboard", "umbrella"),
    "sitting on": ("chair", "couch", "bench", "bed", "motorcycle", "horse", "grass", "dining table", "toilet"),
    "standing on": ("skateboard", "surfboard", "snowboard", "skis", "road", "grass", "pavement", "sand", "snow", "floor"),
    "walking on": ("road", "grass", "pavement", "sand", "snow", "floor"),
    "lying on": ("bed", "couch", "grass", "sand", "bench", "floor"),
    "looking at": ("laptop", "tv", "cell phone", "dog", "cat", "horse", "book", "clock", "bird", "person", "elephant"),
    "eating": ("pizza", "sandwich", "hot dog", "donut", "cake", "banana", "apple", "orange", "carrot", "broccoli"),
    "drinking": ("bottle", "cup", "wine glass"),
    "feeding": ("bird", "dog", "cat", "horse", "sheep", "cow", "elephant", "giraffe"),
    "playing with": ("dog", "cat", "frisbee", "kite", "sports ball", "teddy bear"),
    "throwing": ("frisbee", "sports ball"),
    "catching": ("frisbee", "sports ball"),
    "kicking": ("sports ball",),
    "swinging": ("tennis racket", "baseball bat"),
    "about to hit": ("sports ball",),
    "talking to": ("person",),
    "kissing": ("person", "dog", "horse"),
    "pushing": ("bicycle", "motorcycle", "suitcase", "car"),
    "pulling": ("suitcase", "horse", "boat"),
    "opening": ("refrigerator", "oven", "microwave", "laptop", "suitcase", "umbrella", "bottle"),
    "slicing": ("pizza", "cake", "sandwich", "apple", "carrot"),
    "cooking": ("pizza", "broccoli", "carrot", "hot dog"),
    "crossing": ("road",),
    "entering": ("bus", "train", "car", "airplane"),
    "exiting": ("bus", "train", "car", "airplane"),
    "leaning on": ("car", "wall", "bicycle", "counter", "chair", "dining table", "fence"),
    "touching": ("horse", "dog", "cat", "elephant", "laptop", "keyboard"),
    "cleaning": ("sink", "toilet", "oven", "dining table"),
    "guiding": ("horse", "elephant", "cow", "sheep"),
    "jumping from": ("skateboard", "snowboard", "boat"),
    "jumping over": ("bench", "fire hydrant", "skateboard"),
}  # fmt: skip

#: Likely triples with an animal or a vehicle as subject.
OTHER_ACTIONS: Final[dict[str, tuple[str, ...]]] = {
    "lying on": ("couch", "bed", "grass", "rug", "floor", "chair"),
    "sitting on": ("couch", "bed", "chair", "bench", "grass", "floor"),
    "standing on": ("grass", "road", "sand", "snow", "dirt"),
    "walking on": ("grass", "road", "sand", "snow", "dirt"),
    "eating": ("grass", "apple", "banana", "carrot", "pizza", "sandwich"),
    "looking at": ("person", "bird", "cat", "dog", "tv"),
    "chasing": ("cat", "dog", "bird", "frisbee", "sports ball", "sheep"),
    "biting": ("frisbee", "teddy bear", "sports ball", "apple"),
    "drinking": ("water", "bowl"),
    "parked on": ("road", "pavement", "grass"),
    "driving on": ("road", "bridge", "dirt", "grass"),
    "flying over": ("sea", "mountain", "road", "building", "boat"),
}

#: Words that signs, brands and screens carry; several languages, since OCR reads them all.
TEXT_WORDS: Final[tuple[str, ...]] = tuple(
    "STOP|EXIT|OPEN|CLOSED|TAXI|BUS|POLICE|cero|emisiones|salida|entrada|abierto|cerrado|calle|plaza|mercado|hotel|Hotel|"
    "cafe|Café|Pizza|BAKERY|Bakery|panadería|farmacia|PHARMACY|Apotheke|Ausgang|Straße|Bahnhof|gare|sortie|boulangerie|"
    "Tabac|tren|electrico|eléctrico|autobús|Madrid|Paris|London|Berlin|Tokyo|Milano|Roma|ticino|Lisboa|SALE|Sale|50%|25%|NEW|"
    "FREE|WiFi|Parking|P|NO PARKING|ONE WAY|SPEED LIMIT|School|Library|Museum|Bank|BANK|Coca-Cola|Nike|Sony|SAMSUNG|Dell|"
    "Apple|Toyota|Ford|Shell|Nokia|Canon|Heineken|Fanta|Pepsi|Adidas|Visa|Google|Main St|Broadway|5th Ave|Park Ave|"
    "High Street|Route 66|Platform 2|Gate 12|Line 4|No. 7|Bus 42|24h|24/7|2019|1984|007|911|112|3.99|12:30|10:15|"
    "A 23|B2|KA 7|M-30|E45|100|60|30|12|7|Welcome|welcome|Bienvenidos|Danger|PELIGRO|Caution|Push|PULL|Milk|Bread|Tea|Coffee|"
    "menu|Menü|kitchen|Fresh Fruit|Organic|World Cup|Champion|Finish|START|Wilson|Yonex|Fly Emirates|United|Delta|Iberia|"
    "KLM|DHL|FedEx|UPS|Amazon|the|and|for you|Happy Birthday|I love NY|do not enter|keep left|fragile|EMT|ALSA|Transport|"
    "City Tours|sightseeing|electric|zero|emission|hybrid|gas|Diesel".split("|")
)
_SYLLABLES: Final[tuple[str, ...]] = tuple(
    "ba be bo ca ce co da de di do el en er fa fi ga go ha in ka ki la le lo ma mi mo na ne no os pa per po qua ra re ri ro "
    "sa se si so ta te ti to tra un va ve vi wa wo xi ya zo".split()
)
SYLLABLES: Final[tuple[str, ...]] = _SYLLABLES


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
