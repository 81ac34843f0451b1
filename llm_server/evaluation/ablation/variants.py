"""What is compared: one run of dual training, and the same with a part left out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from llm_server.models.crayon import CrayonSwitches
from llm_server.training.dual_settings import AdapterUse, CrayonQueries, DualSettings, Views, smoke, varied

Part = Literal["crayon", "adapters"]
PARTS: Final[tuple[Part, ...]] = ("crayon", "adapters")
#: Names of the contenders and the settings that make them.
CRAYON: Final[tuple[CrayonQueries, ...]] = ("off", "semantic", "both")
ADAPTERS: Final[dict[str, AdapterUse]] = {"vl_only": "vl-only", "single": "single", "dual": "dual"}


@dataclass(frozen=True)
class Variant:
    """One contender: the part it belongs to, its name there, how it is trained."""

    part: Part
    name: str
    settings: DualSettings

    @property
    def folder(self) -> str:
        """Names it and its seed."""
        return f"{self.part}-{self.name}-seed{self.settings.seed}"

    @property
    def switches(self) -> CrayonSwitches:
        """Which of the crayon prompt's tables it was trained with."""
        return switches(self.settings.crayon_queries)


def switches(queries: CrayonQueries) -> CrayonSwitches:
    """The tables that take part, for a reader of maps."""
    return CrayonSwitches(semantic=queries != "off", numbering=queries == "both")


def variants(settings: DualSettings, part: Part, *, steps: int, seed: int) -> list[Variant]:
    """The contenders of a part, of one seed; see :func:`llm_server.training.dual_settings.varied`.

    A quarter of ``steps`` is crayon prompt tuning, where there is any. The crayon part is trained on the map alone.
    """
    cpt = max(1, steps // 4)
    short = replace(smoke(settings, cpt=cpt, cit=max(1, steps - cpt)), seed=seed, heldout=1)
    if part == "crayon":
        alone = replace(short, views=Views(both=0.0, map_only=1.0, text_only=0.0))
        return [Variant(part, queries, varied(alone, "dual", queries)) for queries in CRAYON]
    return [Variant(part, name, varied(short, use, "both")) for name, use in ADAPTERS.items()]
