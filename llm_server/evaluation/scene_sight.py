"""How a scene is shown to a model: in words, as crayon maps, as both or as neither."""

from __future__ import annotations

import random
from dataclasses import dataclass

from llm_server.evaluation.crayon_reading import CrayonReader
from llm_server.evaluation.packed_generation import Seen
from llm_server.training.scene_maps import LabelIds, Maps, maps, painted
from llm_server.training.scenes import Scene


@dataclass(frozen=True)
class MapSight:
    """Paints scenes for a reader of crayon maps; ``rows`` and ``columns`` are those of its grid."""

    reader: CrayonReader
    rows: int
    columns: int
    labels: LabelIds

    def of(self, scenes: list[Scene]) -> Seen:
        """The maps of these scenes; the same scene has the same map."""
        return Seen(self.reader, [self._painted(scene) for scene in scenes])

    def _painted(self, scene: Scene) -> Maps:
        rng = random.Random(f"polysight-map/{len(scene.objects)}")
        return maps(rng, scene, painted(scene, self.rows, self.columns), self.labels)
