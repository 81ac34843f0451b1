"""When geometry speaks: the rules that turn measures into relations. README.md has them in words.

A rule names a predicate, the classes it may join, and how strongly the measures of each ordered pair speak
for it (0: not at all). The rules stand in order of how much they say; of two objects only the first rule that
speaks is heard, in its stronger direction. Precision before recall: what fits no rule is left unsaid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.scene_graph.geometry import Bool, Measures, Real, Scene, ramp
from services.scene_graph.predicates import PREDICATE_IDS, PREDICATES
from serving.coco import COCO_80

RULES_VERSION = "rules-1"
"""Changes whenever the same objects could be related in another way."""

MAX_RELATIONS = 100

LEAST_STRENGTH = 0.25
"""Below it a rule has not spoken, and the next one may."""

Classes = frozenset[str]

PERSON: Classes = frozenset({"person"})
RIDDEN: Classes = frozenset({"bicycle", "motorcycle", "horse", "elephant"})
BOARDS: Classes = frozenset({"skateboard", "surfboard", "snowboard"})
VEHICLES: Classes = frozenset({"car", "bus", "train", "truck", "boat"})
ANIMALS: Classes = frozenset(
    {"bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"}
)
PETS: Classes = frozenset({"cat", "dog"})
SEATS: Classes = frozenset({"chair", "couch", "bench", "toilet"})
BEDS: Classes = frozenset({"bed", "couch"})
WORN: Classes = frozenset({"tie", "backpack", "baseball glove"})
CARRIED: Classes = frozenset({"handbag", "suitcase", "surfboard", "snowboard", "skis"})
FOOD: Classes = frozenset(
    {"banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"}
)
HELD: Classes = FOOD | {
    *("umbrella", "frisbee", "sports ball", "baseball bat", "tennis racket", "bottle", "wine glass", "cup"),
    *("fork", "knife", "spoon", "bowl", "remote", "cell phone", "book", "scissors", "teddy bear"),
    *("hair drier", "toothbrush", "kite", "skateboard", "mouse"),
}
VESSELS: Classes = frozenset(
    {"bowl", "cup", "sink", "vase", "wine glass", "microwave", "oven", "refrigerator"}
)
CUTLERY: Classes = frozenset({"fork", "knife", "spoon"})
TABLEWARE: Classes = FOOD | CUTLERY | {"bottle", "cup", "wine glass", "bowl"}
SURFACES: Classes = frozenset({"dining table", "bed", "couch", "chair", "bench", "oven", "sink"})
RESTING: Classes = TABLEWARE | {
    *("vase", "potted plant", "laptop", "mouse", "remote", "keyboard", "cell phone", "book", "clock", "tv"),
    *("scissors", "teddy bear", "toothbrush", "hair drier", "microwave", "toaster", "handbag", "backpack"),
    *("suitcase", "tennis racket", "baseball glove", "frisbee", "sports ball"),
}
TOUCHED: Classes = PETS | {"laptop", "keyboard", "mouse", "teddy bear", "horse", "sheep", "cow", "elephant"}
ALOFT: Classes = frozenset(
    {"traffic light", "umbrella", "bird", "clock", "stop sign", "frisbee", "sports ball"}
)
FLYING: Classes = frozenset({"airplane", "kite"})
GROUNDED: Classes = (
    PERSON
    | ANIMALS
    | VEHICLES
    | SEATS
    | {"bicycle", "motorcycle", "bed", "dining table", "fire hydrant", "parking meter", "stop sign"}
    | {"potted plant", "suitcase", "refrigerator", "sink", "oven", "skateboard"}
)
MOBILE: Classes = PERSON | ANIMALS | VEHICLES | {"bicycle", "motorcycle", "chair", "bench"}
ANYTHING: Classes = frozenset(COCO_80)


@dataclass(frozen=True)
class Relation:
    """`subject` stands in `predicate_id` to `object`; both are indices into the scene's objects, never equal.

    `score` in 0-1 is the geometric mean of the objects' scores times how well the rule holds.
    """

    subject: int
    object: int
    predicate_id: int
    score: float

    @property
    def predicate(self) -> str:
        """The predicate in words."""
        return PREDICATES[self.predicate_id]


@dataclass(frozen=True)
class Rule:
    """One way to see a predicate.

    `strength` maps the measures to (N, N) in 0-1. `confidence` is how often a full-strength case is true.
    `one_subject`: an object has at most one subject (a cup is held by one person); `one_object`: a subject
    has at most one object (a person sits on one chair).
    """

    predicate: str
    subjects: Classes
    objects: Classes
    strength: Callable[[Measures], Real]
    confidence: float
    one_subject: bool = False
    one_object: bool = False


def relations(scene: Scene, *, threshold: float = 0.0, limit: int = MAX_RELATIONS) -> tuple[Relation, ...]:
    """The relations of a scene with at least the score `threshold`: the `limit` best, best first, ties by
    indices. Between two objects there is at most one.
    """
    count = len(scene)
    if count < 2:
        return ()
    measures = Measures(scene)
    names = [COCO_80[label] for label in scene.labels]
    quality = np.sqrt(scene.scores[:, None] * scene.scores[None, :])
    free = ~(np.eye(count, dtype=np.bool_) | _one_thing_twice(measures))
    found: list[Relation] = []
    for rule in RULES:
        who = np.array([name in rule.subjects for name in names])[:, None]
        whom = np.array([name in rule.objects for name in names])[None, :]
        allowed = free & who & whom
        if not allowed.any():
            continue
        strength = np.where(allowed, rule.strength(measures), 0.0)
        score = np.where(strength >= LEAST_STRENGTH, strength, 0.0) * rule.confidence * quality
        chosen = _chosen(score, rule, scene.scores)
        for subject, other in np.argwhere(chosen):
            if score[subject, other] >= threshold:
                id_ = PREDICATE_IDS[rule.predicate]
                found.append(Relation(int(subject), int(other), id_, float(score[subject, other])))
        free &= ~(chosen | chosen.T)
    found.sort(key=lambda relation: (-relation.score, relation.subject, relation.object))
    return tuple(found[:limit])


def _chosen(score: Real, rule: Rule, confidence: Real) -> Bool:
    """Which ordered pairs the rule speaks for: one direction of each two, and one partner where it says so."""
    # Equal in both directions: the surer object is the subject, whatever the order they came in.
    surer = confidence[:, None] > confidence[None, :]
    first = np.arange(len(confidence))[:, None] < np.arange(len(confidence))[None, :]
    same = confidence[:, None] == confidence[None, :]
    chosen: Bool = (score > 0) & ((score > score.T) | ((score == score.T) & (surer | (same & first))))
    for axis, only in ((0, rule.one_subject), (1, rule.one_object)):
        if only:
            best = np.where(chosen, score, 0.0).argmax(axis=axis, keepdims=True)
            mark = np.zeros_like(chosen)
            np.put_along_axis(mark, best, True, axis=axis)
            chosen &= mark
    return chosen


def _one_thing_twice(m: Measures) -> Bool:
    """Pairs that are probably one thing reported twice: masks that claim the same cells."""
    same_class = m.scene.labels[:, None] == m.scene.labels[None, :]
    smaller = np.maximum(m.overlap, m.overlap.T)
    larger = np.minimum(m.overlap, m.overlap.T)
    twice: Bool = (same_class & (smaller > 0.5)) | (larger > 0.7)
    return twice


def _wearing(m: Measures) -> Real:
    """The thing lies on the body: within the person's outline, in contact, small, and not at the feet."""
    lies_on = np.maximum(m.enclosed, m.overlap).T
    place = m.depth_middle.T
    high = (place > 0.1) & (place < 0.8) & (m.relative_area.T < 0.5)
    return ramp(lies_on, 0.3, 0.7) * ramp(m.contact, 0.1, 0.4) * high


def _riding(m: Measures) -> Real:
    """Above and astride: middles stacked, the lower edge of the rider between saddle and ground."""
    astride = ramp(m.within_width, 0.5, 0.8) * ramp(m.contact, 0.15, 0.4)
    seat = ramp(m.depth_down, 0.15, 0.3) * ramp(m.depth_down, 1.0, 0.9)
    return astride * seat * ramp(m.depth_middle, 0.4, 0.2)


def _on_board(m: Measures) -> Real:
    """The lower edge of the person meets the board, which is not held up beside the body."""
    feet = ramp(m.depth_down, -0.3, 0.1) * (m.bottom[:, None] - m.bottom[None, :] < 0.15 * m.height[:, None])
    board = m.middle[None, :] > m.bottom[:, None] - 0.2 * m.height[:, None]
    shared = np.clip(m.shared_width, 0, None) / np.minimum(m.width[:, None], m.width[None, :])
    return feet * board * ramp(shared, 0.4, 0.7) * ramp(m.contact, 0.05, 0.2)


def _sitting(m: Measures) -> Real:
    """Over the seat, rising above its back, feet not far below it, and of a size with it."""
    over = ramp(np.maximum(m.within_width, m.within_width.T), 0.5, 0.8) * ramp(m.contact, 0.15, 0.4)
    rises = ramp((m.top[None, :] - m.top[:, None]) / m.height[:, None], 0.05, 0.2)
    feet = ramp(m.depth_down, 0.35, 0.5) * ramp(m.depth_down, 1.25, 1.05)
    size = ramp(m.height[:, None] / m.height[None, :], 2.4, 1.8)
    # A seat that covers its sitter is rather a seat in front of somebody.
    behind = ramp(m.covering.T, 0.3, 0.6)
    return over * rises * feet * size * (1 - behind)


def _lying(m: Measures) -> Real:
    """Flat on it: wider than high, mostly within its box, in contact."""
    flat = ramp((m.width / m.height)[:, None], 1.1, 1.6)
    inside = ramp(m.within_box, 0.6, 0.85) * ramp(m.contact, 0.2, 0.5)
    return flat * inside * (m.depth_down < 1.0) * (m.relative_area < 0.9)


def _pet_sitting(m: Measures) -> Real:
    """Like lying, without having to be flat."""
    return ramp(m.within_box, 0.6, 0.85) * ramp(m.contact, 0.2, 0.5) * (m.depth_down < 1.0)


def _eating(m: Measures) -> Real:
    """Held, and at the height of the face."""
    face = ramp(m.depth_middle.T, 0.33, 0.25) * (m.depth_middle.T > 0)
    return _held_small(m) * face


def _held_small(m: Measures) -> Real:
    """Small beside the person, in contact with the body, between head and knees, and mostly within reach."""
    touch = ramp(m.contact, 0.15, 0.4)
    small = ramp(m.relative_area.T, 0.35, 0.15)
    place = m.depth_middle.T
    return touch * small * (place > -0.1) * ramp(place, 0.8, 0.7) * ramp(m.within_height.T, 0.3, 0.6)


def _holding(m: Measures) -> Real:
    """Held small, or something like an umbrella: over the head, reaching down to the body."""
    place = m.depth_middle.T
    above = ramp(place, 0.25, 0.1) * ramp(m.contact, 0.15, 0.4) * ramp(m.within_width, 0.4, 0.7)
    return np.maximum(_held_small(m), above * ramp(m.relative_area.T, 1.5, 1.0))


def _carrying(m: Measures) -> Real:
    """Larger than what is held; beside the body or on it, clear of the ground the person stands on."""
    touch = ramp(m.contact, 0.15, 0.4) * ramp(m.relative_area.T, 0.8, 0.5)
    clear = (m.bottom[:, None] - m.bottom[None, :]) / m.height[:, None]
    return touch * ramp(clear, 0.03, 0.12) * ramp(m.within_height.T, 0.5, 0.8)


def _aboard(m: Measures) -> Real:
    """Seen through a window or over the side: within the outline, small, and well above the wheels."""
    inside = ramp(m.enclosed, 0.85, 0.97) * ramp(m.within_box, 0.9, 0.98)
    return inside * ramp(m.relative_area, 0.25, 0.12) * ramp(m.depth_down, 0.75, 0.65)


def _afloat(m: Measures) -> Real:
    """In a boat: over the hull, in contact, the lower edge between gunwale and water line."""
    over = ramp(m.within_width, 0.7, 0.9) * ramp(m.contact, 0.15, 0.4)
    return over * ramp(m.depth_down, -0.1, 0.05) * ramp(m.depth_down, 1.0, 0.85)


def _inside(m: Measures) -> Real:
    """Within the vessel's box, smaller than it, in contact, the lower edge above the vessel's own."""
    within = ramp(m.within_box, 0.6, 0.85) * ramp(m.contact, 0.2, 0.5)
    return within * ramp(m.relative_area, 0.9, 0.6) * ramp(m.depth_down, 0.97, 0.85)


def _planted(m: Measures) -> Real:
    """Rising out of the vase: over it, in contact, the middle above the vase's, the foot between its edges."""
    shared = np.clip(m.shared_width, 0, None) / np.minimum(m.width[:, None], m.width[None, :])
    foot = ramp(m.depth_down, -0.1, 0.02) * ramp(m.depth_down, 1.0, 0.9)
    return foot * ramp(shared, 0.6, 0.9) * ramp(m.contact, 0.1, 0.3) * ramp(m.depth_middle, 0.5, 0.2)


def _resting(m: Measures) -> Real:
    """The lower edge on the surface, the width within the surface's, in contact, smaller than it."""
    over = ramp(m.within_width, 0.7, 0.9) * ramp(m.contact, 0.2, 0.5)
    foot = ramp(m.depth_down, -0.05, 0.05) * ramp(m.depth_down, 0.97, 0.9)
    return over * foot * ramp(m.relative_area, 0.6, 0.35)


def _flying(m: Measures) -> Real:
    """Wholly above it, and over it rather than beside it."""
    clear = (m.top[None, :] - m.bottom[:, None]) > 0
    over = np.clip(m.shared_width, 0, None) / np.minimum(m.width[:, None], m.width[None, :])
    return clear * ramp(over, 0.4, 0.7)


def _over(m: Measures) -> Real:
    """Wholly above, close, and over it rather than beside it."""
    picture = m.scene.masks.shape[1]
    gap = (m.top[None, :] - m.bottom[:, None]) / picture
    over = np.clip(m.shared_width, 0, None) / np.minimum(m.width[:, None], m.width[None, :])
    return ramp(gap, -0.02, 0.0) * ramp(gap, 0.25, 0.12) * ramp(over, 0.5, 0.8)


def _in_front(m: Measures) -> Real:
    """Nearer: it covers the other's outline, or overlaps it and stands lower in the picture."""
    whole = np.minimum(m.area[:, None], m.area[None, :])
    cover = (m.covering * m.area[:, None] - m.covering.T * m.area[None, :]) / np.maximum(whole, 1)
    touch = ramp(m.contact, 0.02, 0.1)
    lower = (m.bottom[:, None] - m.bottom[None, :]) / np.minimum(m.height[:, None], m.height[None, :])
    known = ~m.cut_below[None, :]
    meets = ramp(np.maximum(m.within_box, m.within_box.T), 0.2, 0.4)
    stands_lower = np.where(known, ramp(lower, 0.03, 0.12), 0.0) * meets * (cover > -0.03)
    # What covers but stands clearly higher is not nearer: it shows through (a person in a doorway).
    not_behind = np.where(known & ~m.cut_below[:, None], ramp(lower, -0.25, -0.1), 1.0)
    return np.maximum(ramp(cover, 0.03, 0.12) * not_behind, stands_lower) * touch


def _beside(m: Measures) -> Real:
    """Side by side on one ground: close across, level below, alike in height."""
    mean_width = (m.width[:, None] + m.width[None, :]) / 2
    apart = ramp(-m.shared_width / mean_width, 0.5, 0.25) * ramp(m.shared_width / mean_width, 0.6, 0.35)
    small, large = np.minimum(m.height[:, None], m.height[None, :]), np.maximum(m.height[:, None], m.height)
    level = ramp(np.abs(m.bottom[:, None] - m.bottom[None, :]) / large, 0.25, 0.12)
    alike = ramp(small / large, 0.4, 0.6)
    standing = ~(m.cut_below[:, None] ^ m.cut_below[None, :])
    return apart * level * alike * standing


def _touching(m: Measures) -> Real:
    """Outlines that run along each other, on a level."""
    return ramp(m.contact, 0.25, 0.5) * ramp(m.within_height.T, 0.6, 0.9)


def _enclosing(m: Measures) -> Real:
    """The other lies wholly within its outline and clear of its foot, so it does not stand before it."""
    around = ramp(m.enclosed.T, 0.9, 0.98) * ramp(m.relative_area, 1.5, 3.0)
    return around * ramp(m.depth_down.T, 0.85, 0.75) * (m.overlap.T < 0.5)


RULES: tuple[Rule, ...] = (
    Rule("wearing", PERSON, WORN, _wearing, 0.95, one_subject=True),
    Rule("riding", PERSON, RIDDEN, _riding, 0.9, one_object=True),
    Rule("riding", PERSON, BOARDS, _on_board, 0.85, one_subject=True, one_object=True),
    Rule("standing on", PERSON, frozenset({"skis"}), _on_board, 0.85, one_subject=True, one_object=True),
    Rule("lying on", PERSON | PETS, BEDS, _lying, 0.85, one_object=True),
    Rule("sitting on", PERSON, SEATS, _sitting, 0.85, one_object=True),
    Rule("sitting on", PETS, SEATS | BEDS, _pet_sitting, 0.75, one_object=True),
    Rule("eating", PERSON, FOOD, _eating, 0.75, one_subject=True),
    Rule("drinking", PERSON, frozenset({"cup", "bottle", "wine glass"}), _eating, 0.6, one_subject=True),
    Rule("holding", PERSON, HELD, _holding, 0.85, one_subject=True),
    Rule("carrying", PERSON, CARRIED, _carrying, 0.8, one_subject=True),
    Rule("in", PERSON | PETS, VEHICLES - {"boat"}, _aboard, 0.8, one_object=True),
    Rule("in", PERSON | PETS, frozenset({"boat"}), _afloat, 0.8, one_object=True),
    Rule("in", TABLEWARE | {"toothbrush"}, VESSELS, _inside, 0.8, one_object=True),
    Rule("in", frozenset({"potted plant"}), frozenset({"vase"}), _planted, 0.8, one_object=True),
    Rule("on", RESTING, SURFACES, _resting, 0.85, one_object=True),
    Rule("flying over", FLYING, ANYTHING, _flying, 0.8),
    Rule("over", ALOFT, PERSON | ANIMALS | VEHICLES, _over, 0.7),
    Rule("touching", PERSON, TOUCHED, _touching, 0.65),
    Rule("in front of", MOBILE, GROUNDED, _in_front, 0.85),
    Rule("in front of", GROUNDED, MOBILE, _in_front, 0.85),
    Rule("beside", GROUNDED, GROUNDED, _beside, 0.8),
    Rule("enclosing", ANYTHING - PERSON, ANYTHING, _enclosing, 0.7, one_subject=True),
)
