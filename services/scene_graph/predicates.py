"""The 56 predicates of the PSG dataset (Panoptic Scene Graph Generation, Yang et al. 2022), in its order.

A predicate's id on the wire is its place in `PREDICATES`. The geometric backend says only those that it can
see (`services.scene_graph.rules`); a trained backend says any.
"""

from __future__ import annotations

PREDICATES: tuple[str, ...] = (
    *("over", "in front of", "beside", "on", "in", "attached to", "hanging from", "on back of"),
    *("falling off", "going down", "painted on", "walking on", "running on", "crossing", "standing on"),
    *("lying on", "sitting on", "flying over", "jumping over", "jumping from", "wearing", "holding"),
    *("carrying", "looking at", "guiding", "kissing", "eating", "drinking", "feeding", "biting", "catching"),
    *("picking", "playing with", "chasing", "climbing", "cleaning", "playing", "touching", "pushing"),
    *("pulling", "opening", "cooking", "talking to", "throwing", "slicing", "driving", "riding"),
    *("parked on", "driving on", "about to hit", "kicking", "swinging", "entering", "exiting"),
    *("enclosing", "leaning on"),
)

PREDICATE_IDS: dict[str, int] = {name: number for number, name in enumerate(PREDICATES)}
