"""The predicates of the Panoptic Scene Graph data set: the one place that spells them.

Yang et al., "Panoptic Scene Graph Generation" (ECCV 2022), in the data set's order (https://github.com/Jingkang50/OpenPSG).
"""

from __future__ import annotations

from typing import Final

PSG_PREDICATES: Final[tuple[str, ...]] = (
    *("over", "in front of", "beside", "on", "in", "attached to", "hanging from", "on back of"),
    *("falling off", "going down", "painted on", "walking on", "running on", "crossing", "standing on"),
    *("lying on", "sitting on", "flying over", "jumping over", "jumping from", "wearing", "holding"),
    *("carrying", "looking at", "guiding", "kissing", "eating", "drinking", "feeding", "biting", "catching"),
    *("picking", "playing with", "chasing", "climbing", "cleaning", "playing", "touching", "pushing"),
    *("pulling", "opening", "cooking", "talking to", "throwing", "slicing", "driving", "riding"),
    *("parked on", "driving on", "about to hit", "kicking", "swinging", "entering", "exiting"),
    *("enclosing", "leaning on"),
)
"""The 56 predicates; index = column of a trained network's relation scores after "no relation"."""
