"""What relations can say: a predicate's id on the wire is its place in `PREDICATES`.

The geometric backend says only those that it can see (`services.scene_graph.rules`); a trained backend says any.
"""

from __future__ import annotations

from typing import Final

from serving.psg import PSG_PREDICATES

PREDICATES: Final[tuple[str, ...]] = PSG_PREDICATES

PREDICATE_IDS: Final[dict[str, int]] = {name: number for number, name in enumerate(PREDICATES)}
