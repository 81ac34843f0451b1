"""What makes a generated scene plausible: what stands together, who does what with what, what signs say.

``PREDICATES`` are the 56 of the PSG vocabulary. Pure data.
"""

from __future__ import annotations

from typing import Final

from serving.psg import PSG_PREDICATES


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split("|"))


#: What tends to be seen together: a place draws most of its objects from its own row.
PLACES: Final[dict[str, tuple[str, ...]]] = {
    "street": _split(
        "person|person|car|car|bus|truck|bicycle|motorcycle|traffic light|stop sign|parking meter|"
        "fire hydrant|bench|backpack|handbag|umbrella|dog|road|building"
    ),
    "kitchen": _split(
        "person|refrigerator|oven|microwave|sink|toaster|bottle|cup|bowl|knife|spoon|dining table|chair|"
        "counter|cabinet|window"
    ),
    "meal": _split(
        "person|dining table|chair|pizza|sandwich|cake|donut|hot dog|fork|knife|spoon|cup|wine glass|"
        "bottle|bowl|banana|apple|orange|carrot|broccoli"
    ),
    "office": _split(
        "person|laptop|tv|keyboard|mouse|cell phone|book|chair|dining table|cup|clock|potted plant|"
        "bottle|window"
    ),
    "living room": _split(
        "person|couch|tv|remote|chair|potted plant|vase|book|clock|cat|dog|rug|curtain|teddy bear|laptop"
    ),
    "bedroom": _split("bed|person|teddy bear|book|clock|cat|dog|laptop|cell phone|pillow|window"),
    "bathroom": _split("toilet|sink|toothbrush|hair drier|bottle|person|mirror|cup"),
    "animals": _split("horse|sheep|cow|elephant|bear|zebra|giraffe|bird|dog|cat|person|grass|tree|fence"),
    "sport": _split(
        "person|person|person|sports ball|tennis racket|baseball bat|baseball glove|skateboard|frisbee|"
        "kite|bench|bottle|playingfield|grass"
    ),
    "winter": _split("person|person|skis|snowboard|backpack|snow|mountain|tree"),
    "water": _split("person|boat|boat|surfboard|bird|sea|sand|umbrella|kite|dog|chair"),
    "station": _split("train|person|person|suitcase|backpack|handbag|bench|clock|railroad|tie"),
    "airport": _split("airplane|airplane|person|truck|car|suitcase|backpack|sky|road"),
    "portrait": _split("person|person|tie|cell phone|wine glass|cup|book|umbrella|backpack"),
}

PREDICATES: Final[tuple[str, ...]] = PSG_PREDICATES

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
    "riding": _split("bicycle|motorcycle|horse|elephant|skateboard|surfboard|snowboard|skis|bus|train"),
    "driving": _split("car|truck|bus|boat|motorcycle"),
    "wearing": _split("tie|backpack|skis|baseball glove|handbag"),
    "holding": _split(
        "umbrella|cup|bottle|cell phone|tennis racket|baseball bat|book|remote|wine glass|knife|handbag|"
        "surfboard|kite|frisbee|teddy bear|toothbrush|laptop|sandwich|banana|fork"
    ),
    "carrying": _split("backpack|suitcase|handbag|surfboard|skis|snowboard|umbrella"),
    "sitting on": _split("chair|couch|bench|bed|motorcycle|horse|grass|dining table|toilet"),
    "standing on": _split("skateboard|surfboard|snowboard|skis|road|grass|pavement|sand|snow|floor"),
    "walking on": _split("road|grass|pavement|sand|snow|floor"),
    "lying on": _split("bed|couch|grass|sand|bench|floor"),
    "looking at": _split("laptop|tv|cell phone|dog|cat|horse|book|clock|bird|person|elephant"),
    "eating": _split("pizza|sandwich|hot dog|donut|cake|banana|apple|orange|carrot|broccoli"),
    "drinking": _split("bottle|cup|wine glass"),
    "feeding": _split("bird|dog|cat|horse|sheep|cow|elephant|giraffe"),
    "playing with": _split("dog|cat|frisbee|kite|sports ball|teddy bear"),
    "throwing": _split("frisbee|sports ball"),
    "catching": _split("frisbee|sports ball"),
    "kicking": _split("sports ball"),
    "swinging": _split("tennis racket|baseball bat"),
    "about to hit": _split("sports ball"),
    "talking to": _split("person"),
    "kissing": _split("person|dog|horse"),
    "pushing": _split("bicycle|motorcycle|suitcase|car"),
    "pulling": _split("suitcase|horse|boat"),
    "opening": _split("refrigerator|oven|microwave|laptop|suitcase|umbrella|bottle"),
    "slicing": _split("pizza|cake|sandwich|apple|carrot"),
    "cooking": _split("pizza|broccoli|carrot|hot dog"),
    "crossing": _split("road"),
    "entering": _split("bus|train|car|airplane"),
    "exiting": _split("bus|train|car|airplane"),
    "leaning on": _split("car|wall|bicycle|counter|chair|dining table|fence"),
    "touching": _split("horse|dog|cat|elephant|laptop|keyboard"),
    "cleaning": _split("sink|toilet|oven|dining table"),
    "guiding": _split("horse|elephant|cow|sheep"),
    "jumping from": _split("skateboard|snowboard|boat"),
    "jumping over": _split("bench|fire hydrant|skateboard"),
}

#: Likely triples with an animal or a vehicle as subject.
OTHER_ACTIONS: Final[dict[str, tuple[str, ...]]] = {
    "lying on": _split("couch|bed|grass|rug|floor|chair"),
    "sitting on": _split("couch|bed|chair|bench|grass|floor"),
    "standing on": _split("grass|road|sand|snow|dirt"),
    "walking on": _split("grass|road|sand|snow|dirt"),
    "eating": _split("grass|apple|banana|carrot|pizza|sandwich"),
    "looking at": _split("person|bird|cat|dog|tv"),
    "chasing": _split("cat|dog|bird|frisbee|sports ball|sheep"),
    "biting": _split("frisbee|teddy bear|sports ball|apple"),
    "drinking": _split("water|bowl"),
    "parked on": _split("road|pavement|grass"),
    "driving on": _split("road|bridge|dirt|grass"),
    "flying over": _split("sea|mountain|road|building|boat"),
}

#: Words that signs, brands and screens carry; several languages, since OCR reads them all.
TEXT_WORDS: Final[tuple[str, ...]] = _split(
    "STOP|EXIT|OPEN|CLOSED|TAXI|BUS|POLICE|cero|emisiones|salida|entrada|abierto|cerrado|calle|plaza|"
    "mercado|hotel|Hotel|cafe|Café|Pizza|BAKERY|Bakery|panadería|farmacia|PHARMACY|Apotheke|Ausgang|"
    "Straße|Bahnhof|gare|sortie|boulangerie|Tabac|tren|electrico|eléctrico|autobús|Madrid|Paris|London|"
    "Berlin|Tokyo|Milano|Roma|ticino|Lisboa|SALE|Sale|50%|25%|NEW|FREE|WiFi|Parking|P|NO PARKING|ONE WAY|"
    "SPEED LIMIT|School|Library|Museum|Bank|BANK|Coca-Cola|Nike|Sony|SAMSUNG|Dell|Apple|Toyota|Ford|"
    "Shell|Nokia|Canon|Heineken|Fanta|Pepsi|Adidas|Visa|Google|Main St|Broadway|5th Ave|Park Ave|"
    "High Street|Route 66|Platform 2|Gate 12|Line 4|No. 7|Bus 42|24h|24/7|2019|1984|007|911|112|3.99|"
    "12:30|10:15|A 23|B2|KA 7|M-30|E45|100|60|30|12|7|Welcome|welcome|Bienvenidos|Danger|PELIGRO|Caution|"
    "Push|PULL|Milk|Bread|Tea|Coffee|menu|Menü|kitchen|Fresh Fruit|Organic|World Cup|Champion|Finish|"
    "START|Wilson|Yonex|Fly Emirates|United|Delta|Iberia|KLM|DHL|FedEx|UPS|Amazon|the|and|for you|"
    "Happy Birthday|I love NY|do not enter|keep left|fragile|EMT|ALSA|Transport|City Tours|sightseeing|"
    "electric|zero|emission|hybrid|gas|Diesel"
)
SYLLABLES: Final[tuple[str, ...]] = _split(
    "ba|be|bo|ca|ce|co|da|de|di|do|el|en|er|fa|fi|ga|go|ha|in|ka|ki|la|le|lo|ma|mi|mo|na|ne|no|os|pa|per|"
    "po|qua|ra|re|ri|ro|sa|se|si|so|ta|te|ti|to|tra|un|va|ve|vi|wa|wo|xi|ya|zo"
)
