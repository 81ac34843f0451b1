"""Fifty questions that no family of training questions asks, about ten scenes, with what a good answer would say.

Rephrasings, two steps, comparisons, "is anyone holding", sums, what cannot be known. For people to read: an answer is
recorded, not scored. Scenes are written by hand, in the classes that the experts know, and put into words as the
gateway would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llm_server.training.expert_noise import listed_objects
from llm_server.training.scenes import Box, Scene, SceneObject, SceneRelation


@dataclass(frozen=True)
class FreeQuestion:
    """A question and what a good answer would say, in our words."""

    text: str
    good: str


@dataclass(frozen=True)
class FreeScene:
    """A scene under a name, and questions about it."""

    name: str
    scene: Scene
    questions: tuple[FreeQuestion, ...]


def _scene(
    things: dict[str, tuple[str, Box]],
    relations: tuple[tuple[str, str, str], ...] = (),
    lines: tuple[str, ...] = (),
) -> Scene:
    """A scene of things under names of our own, listed and numbered as the gateway would; relations by those names."""
    keys = list(things)
    seen = []
    for name, box in things.values():
        x0, y0, x1, y1 = box
        seen.append(SceneObject(name, 1, box, 0.8 * (x1 - x0) * (y1 - y0)))
    order, objects = listed_objects(seen)
    place = {keys[was]: at for at, was in enumerate(order)}
    return Scene(objects, tuple(SceneRelation(place[a], p, place[b]) for a, p, b in relations), lines)


def _asked(*pairs: tuple[str, str]) -> tuple[FreeQuestion, ...]:
    return tuple(FreeQuestion(text, good) for text, good in pairs)


FREE: Final[tuple[FreeScene, ...]] = (
    FreeScene(
        "bus stop",
        _scene(
            {
                "bus": ("bus", (0.05, 0.20, 0.70, 0.85)),
                "ann": ("person", (0.72, 0.40, 0.82, 0.90)),
                "ben": ("person", (0.84, 0.42, 0.93, 0.88)),
                "bag": ("backpack", (0.85, 0.50, 0.90, 0.65)),
                "road": ("road", (0.00, 0.70, 1.00, 1.00)),
            },
            (("bus", "driving on", "road"), ("ann", "beside", "bus"), ("ben", "carrying", "bag")),
            ("42 CENTRAL", "STOP"),
        ),
        _asked(
            ("Is anyone holding a bag?", "yes, person #2 carries the backpack"),
            ("Which number does the bus have?", "42"),
            ("Which is bigger, the bus or the backpack?", "the bus"),
            ("Are there more people than buses?", "yes, two people and one bus"),
            ("What is written on the front of the vehicle?", "42 CENTRAL, STOP"),
        ),
    ),
    FreeScene(
        "kitchen",
        _scene(
            {
                "table": ("dining table", (0.10, 0.55, 0.90, 1.00)),
                "cup": ("cup", (0.30, 0.50, 0.38, 0.60)),
                "bowl": ("bowl", (0.45, 0.50, 0.60, 0.62)),
                "apple1": ("apple", (0.48, 0.48, 0.52, 0.53)),
                "apple2": ("apple", (0.53, 0.48, 0.57, 0.53)),
                "oven": ("oven", (0.70, 0.10, 0.98, 0.55)),
            },
            (
                ("cup", "on", "table"),
                ("bowl", "on", "table"),
                ("apple1", "in", "bowl"),
                ("apple2", "in", "bowl"),
            ),
        ),
        _asked(
            ("What could I eat here?", "two apples"),
            ("How many things are on the table?", "two: the cup and the bowl"),
            (
                "Where are the apples, and what is that standing on?",
                "in the bowl, which is on the dining table",
            ),
            ("Could somebody bake a cake in this room?", "there is an oven"),
            ("Is the cup to the right of the bowl?", "no"),
        ),
    ),
    FreeScene(
        "riders",
        _scene(
            {
                "girl": ("person", (0.20, 0.10, 0.50, 0.80)),
                "boy": ("person", (0.60, 0.25, 0.80, 0.85)),
                "bike": ("bicycle", (0.15, 0.40, 0.55, 0.95)),
                "horse": ("horse", (0.50, 0.35, 0.95, 0.98)),
                "umbrella": ("umbrella", (0.62, 0.05, 0.85, 0.25)),
            },
            (("girl", "riding", "bike"), ("boy", "riding", "horse"), ("boy", "holding", "umbrella")),
        ),
        _asked(
            ("Does anyone ride an animal?", "yes, person #2 rides the horse"),
            ("What is the rider of the horse holding?", "the umbrella"),
            ("How many riders do you count?", "2"),
            ("Which of the two people is further left?", "person #1, the one on the bicycle"),
            ("Is nobody holding anything?", "person #2 holds the umbrella"),
        ),
    ),
    FreeScene(
        "empty",
        _scene({}),
        _asked(
            ("What do you make of this?", "nothing was found"),
            ("Who is in the foreground?", "nobody, or cannot tell"),
            ("How many wheels are there?", "cannot tell"),
            ("Is the dog asleep?", "there is no dog"),
            ("What is written on the sign?", "there is no text"),
        ),
    ),
    FreeScene(
        "beach",
        _scene(
            {
                "sea": ("sea", (0.00, 0.30, 1.00, 0.70)),
                "sand": ("sand", (0.00, 0.65, 1.00, 1.00)),
                "surfer": ("person", (0.40, 0.35, 0.50, 0.60)),
                "board": ("surfboard", (0.38, 0.55, 0.55, 0.62)),
                "dog": ("dog", (0.70, 0.75, 0.80, 0.88)),
                "ball": ("sports ball", (0.82, 0.84, 0.86, 0.88)),
            },
            (("surfer", "standing on", "board"), ("board", "on", "sea"), ("dog", "chasing", "ball")),
        ),
        _asked(
            ("What is the dog after?", "the ball"),
            ("Is the person swimming?", "no, standing on the surfboard"),
            ("What is under the person's feet?", "the surfboard"),
            ("Name one thing that floats.", "the surfboard"),
            ("Is the animal closer to the left or to the right edge?", "right"),
        ),
    ),
    FreeScene(
        "shop window",
        _scene(
            {
                "window": ("window", (0.10, 0.10, 0.90, 0.80)),
                "clock": ("clock", (0.45, 0.12, 0.55, 0.22)),
                "bottle1": ("bottle", (0.20, 0.50, 0.25, 0.70)),
                "bottle2": ("bottle", (0.27, 0.50, 0.32, 0.70)),
                "bottle3": ("bottle", (0.34, 0.52, 0.38, 0.70)),
                "vase": ("vase", (0.60, 0.45, 0.70, 0.70)),
            },
            (("clock", "over", "vase"),),
            ("OPEN 9-17", "SALE 50%", "Bakery"),
        ),
        _asked(
            ("When does it open?", "9"),
            ("What kind of shop is this?", "a bakery, says the text"),
            ("How much off is the sale?", "50%"),
            ("Are there at least three bottles?", "yes"),
            ("If I took one bottle away, how many would be left?", "2"),
        ),
    ),
    FreeScene(
        "match",
        _scene(
            {
                "a": ("person", (0.10, 0.30, 0.25, 0.90)),
                "b": ("person", (0.40, 0.30, 0.52, 0.85)),
                "c": ("person", (0.75, 0.35, 0.85, 0.80)),
                "bat": ("baseball bat", (0.05, 0.20, 0.15, 0.45)),
                "glove": ("baseball glove", (0.45, 0.50, 0.50, 0.58)),
                "ball": ("sports ball", (0.30, 0.45, 0.32, 0.48)),
            },
            (("a", "swinging", "bat"), ("b", "holding", "glove")),
            ("TIGERS 7",),
        ),
        _asked(
            ("Which game are they playing?", "baseball"),
            ("Who has the bat?", "person #1"),
            ("Is every person holding something?", "no, nothing is said of person #3"),
            ("What number is on the shirt?", "7"),
            ("Who wins?", "cannot tell"),
        ),
    ),
    FreeScene(
        "living room",
        _scene(
            {
                "couch": ("couch", (0.05, 0.45, 0.60, 0.95)),
                "cat1": ("cat", (0.10, 0.50, 0.25, 0.65)),
                "cat2": ("cat", (0.40, 0.52, 0.52, 0.64)),
                "tv": ("tv", (0.70, 0.20, 0.98, 0.50)),
                "remote": ("remote", (0.30, 0.60, 0.36, 0.63)),
                "book": ("book", (0.75, 0.80, 0.85, 0.86)),
            },
            (("cat1", "lying on", "couch"), ("cat2", "sitting on", "couch"), ("remote", "on", "couch")),
        ),
        _asked(
            ("What are the pets doing?", "one lies and one sits on the couch"),
            ("Is there somewhere to sit?", "yes, the couch"),
            ("What would I switch the TV on with, and where is it?", "the remote, on the couch"),
            ("What is the smallest thing here?", "the remote"),
            ("How many electronic devices are there altogether?", "2: the tv and the remote"),
        ),
    ),
    FreeScene(
        "airfield",
        _scene(
            {
                "plane": ("airplane", (0.10, 0.20, 0.95, 0.60)),
                "truck": ("truck", (0.20, 0.65, 0.40, 0.85)),
                "car": ("car", (0.60, 0.70, 0.72, 0.80)),
                "man": ("person", (0.50, 0.65, 0.54, 0.80)),
                "sky": ("sky", (0.00, 0.00, 1.00, 0.55)),
                "road": ("road", (0.00, 0.60, 1.00, 1.00)),
            },
            (("man", "walking on", "road"), ("truck", "in front of", "plane")),
            ("LH 218",),
        ),
        _asked(
            ("How many vehicles are there that cannot fly?", "2: the truck and the car"),
            ("What colour is the plane?", "cannot tell"),
            ("Is the truck nearer to the left side than the car is?", "yes"),
            ("Which airline code can you make out?", "LH"),
            ("Is the airplane in the air or on the ground?", "cannot tell"),
        ),
    ),
    FreeScene(
        "desk",
        _scene(
            {
                "laptop": ("laptop", (0.30, 0.35, 0.65, 0.70)),
                "mouse": ("mouse", (0.70, 0.60, 0.77, 0.66)),
                "phone": ("cell phone", (0.15, 0.60, 0.22, 0.72)),
                "keyboard": ("keyboard", (0.32, 0.72, 0.62, 0.82)),
                "woman": ("person", (0.00, 0.00, 0.28, 0.95)),
            },
            (("woman", "looking at", "laptop"), ("mouse", "beside", "laptop")),
            ("ESC", "Enter password"),
        ),
        _asked(
            ("What does the screen ask for?", "a password"),
            ("Is the woman using her phone?", "no, she looks at the laptop"),
            ("Could she be working?", "she is looking at a laptop"),
            ("Which thing lies next to the laptop?", "the mouse"),
            ("Please tell me, in a single word, what the person is looking at.", "laptop"),
        ),
    ),
)
