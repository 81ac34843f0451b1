"""What a scene-graph backend is to the service: pictures in, graphs out, whatever lies between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

from services.scene_graph.model import SceneGraph
from serving.preprocess import Picture


class Params(Protocol):
    """The parameters of one request, as a backend keeps them."""

    @property
    def reference(self) -> bool:
        """Whether to do as the published system does."""
        ...

    def asked(self, changes: Mapping[str, Any]) -> Self:
        """These, but for what a request sets: `object_threshold`, `relation_threshold`, `max_relations`."""
        ...


P_contra = TypeVar("P_contra", bound=Params, contravariant=True)
Prepared = TypeVar("Prepared")
Raw = TypeVar("Raw")


class Relater(Protocol[P_contra, Prepared, Raw]):
    """The three stages of one picture; `infer` alone touches the device, blocking, one caller at a time."""

    @property
    def max_batch(self) -> int:
        """The most pictures of one `infer`."""
        ...

    def preprocess(self, image: Picture, params: P_contra) -> Prepared:
        """`image`: (H, W, 3) uint8 RGB."""
        ...

    def infer(self, batch: Sequence[Prepared]) -> Sequence[Raw]:
        """One batch: n pictures in, n answers out."""
        ...

    def postprocess(self, raw: Raw, params: P_contra) -> SceneGraph:
        """Objects and relations."""
        ...

    def warm_up(self, params: P_contra) -> None:
        """A whole picture through every stage at batch 1, and then at the largest batch."""
        ...

    def close(self) -> None:
        """Give the device back."""
        ...


AnyParams = Any
"""The parameters of whichever backend was opened: a `Params`."""

AnyRelater = Relater[Any, Any, Any]
