"""Gate weights that worked for similar questions: test-time re-routing of MoAI without gradients.

R2-T2 (arXiv 2502.20395) moves the routing weights of frozen experts towards those of a question's nearest neighbours in
a set of questions that were answered rightly. Here by kernel regression, its variant without a backward pass: the mean
of the neighbours' gate vectors, weighted by a Gaussian of the distance between question embeddings. What comes out is
an ordinary gate override. The embedder is the caller's; a store knows its name and refuses another's vectors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from llm_server.models.gates import EXPERTS, BlendedGate, GateOverrides, Side, Triple

Place: TypeAlias = tuple[int, Side]
Vector: TypeAlias = NDArray[np.floating[Any]]

_FORMAT: Final = "polysight-routing-1"


class RoutingStoreError(ValueError):
    """A routing store cannot be read, or what is given does not fit it."""


@dataclass(frozen=True)
class Neighbour:
    """A stored question that takes part: its number, cosine distance (0 to 2) and share of the sum."""

    number: int
    distance: float
    weight: float


@dataclass(frozen=True)
class Routing:
    """What a store says of a question: the override, and who it comes from, nearest first."""

    overrides: GateOverrides
    neighbours: tuple[Neighbour, ...]


class RoutingStore:
    """Question embeddings with the gate vectors that answered them.

    Args:
        model: name of the model that the gates are of.
        embedder: name and version of what embeds questions.
        places: mixer layers and sides in the order of the vectors.
        embeddings: (n, d) floating, any length but 0; kept with length 1.
        gates: (n, places, 3) floating, finite and not below 0.

    Raises:
        RoutingStoreError: shapes do not agree, or a value is impossible.
    """

    def __init__(
        self, model: str, embedder: str, places: Sequence[Place], embeddings: Vector, gates: Vector
    ) -> None:
        self.model, self.embedder, self.places = model, embedder, tuple(places)
        if len(set(self.places)) != len(self.places) or not all(
            layer >= 0 and side in get_args(Side) for layer, side in self.places
        ):
            raise RoutingStoreError(f"{self.places} are not layers and sides of mixers, each once")
        if embeddings.ndim != 2 or gates.shape != (len(embeddings), len(self.places), len(EXPERTS)):
            raise RoutingStoreError(
                f"embeddings {embeddings.shape} and gates {gates.shape} do not fit {len(self.places)} gates"
            )
        if not np.isfinite(gates).all() or gates.min(initial=0) < 0:
            raise RoutingStoreError("gate weights must be finite and not below 0")
        self._embeddings = _unit(embeddings)
        self._gates = gates.astype(np.float32)

    def __len__(self) -> int:
        """Number of stored questions."""
        return len(self._embeddings)

    @property
    def width(self) -> int:
        """Width of an embedding."""
        return int(self._embeddings.shape[1])

    def with_question(self, embedding: Vector, gates: Mapping[Place, Triple]) -> RoutingStore:
        """A store with one more question; ``gates`` are those of its right answer, one for every place.

        Raises:
            RoutingStoreError: a place is missing or unknown, or the embedding has another width.
        """
        if set(gates) != set(self.places):
            raise RoutingStoreError(f"gates of {sorted(gates)} given for {sorted(self.places)}")
        if embedding.shape != (self.width,):
            raise RoutingStoreError(f"the embedding is {embedding.shape}, those stored are ({self.width},)")
        row = np.array([[gates[place] for place in self.places]], np.float32)
        return RoutingStore(
            self.model,
            self.embedder,
            self.places,
            np.concatenate((self._embeddings, embedding[None])),
            np.concatenate((self._gates, row)),
        )

    def route(
        self,
        embedding: Vector,
        *,
        neighbours: int = 5,
        bandwidth: float = 0.25,
        reach: float = 0.6,
        share: float = 1.0,
    ) -> Routing | None:
        """Gate override for a question.

        Args:
            embedding: (d,) of the question, by this store's embedder.
            neighbours: how many take part at most (R2-T2: 5).
            bandwidth: standard deviation of the Gaussian, in cosine distance.
            reach: neighbours farther away than this take no part.
            share: how much of the override counts against the model's own gate, 0 to 1.

        Returns:
            None if no stored question is within reach: then the model's own gates are the best guess.

        Raises:
            RoutingStoreError: the embedding has another width, is zero or not finite, or a parameter is out of range.
        """
        if neighbours < 1 or not (bandwidth > 0 and math.isfinite(bandwidth)) or not 0 <= share <= 1:
            raise RoutingStoreError(
                f"{neighbours} neighbours, bandwidth {bandwidth} and share {share} cannot be used"
            )
        if embedding.shape != (self.width,):
            raise RoutingStoreError(f"the embedding is {embedding.shape}, those stored are ({self.width},)")
        distances = 1 - self._embeddings @ _unit(embedding[None])[0]
        nearest = np.argsort(distances, kind="stable")[:neighbours]
        nearest = nearest[distances[nearest] <= reach]
        if not len(nearest):
            return None
        # Relative to the nearest, so that a narrow kernel does not underflow to nothing.
        squares = distances[nearest].astype(np.float64) ** 2
        weights = np.exp((squares[0] - squares) / (2 * bandwidth**2))
        weights = weights / weights.sum()
        means = np.tensordot(weights, self._gates[nearest].astype(np.float64), axes=1)
        layers = {
            place: BlendedGate(cast(Triple, tuple(map(float, mean))), share)
            for place, mean in zip(self.places, means, strict=True)
        }
        return Routing(
            GateOverrides(layers=layers),
            tuple(
                Neighbour(int(number), float(distances[number]), float(weight))
                for number, weight in zip(nearest, weights, strict=True)
            ),
        )

    def save(self, path: Path) -> None:
        """Write to a safetensors file. Raises OSError."""
        from safetensors.numpy import save_file

        told = {"model": self.model, "embedder": self.embedder, "places": self.places}
        save_file(
            {"embeddings": self._embeddings, "gates": self._gates},
            path,
            metadata={"format": _FORMAT, "store": json.dumps(told)},
        )

    @classmethod
    def load(cls, path: Path, *, model: str, embedder: str) -> RoutingStore:
        """Read what :meth:`save` wrote, for a model and an embedder.

        Raises:
            RoutingStoreError: the file cannot be read, or is of another model or embedder.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise RoutingStoreError(f"{path} is not a routing store")
                told = json.loads(metadata["store"])
                places = [(int(layer), cast(Side, str(side))) for layer, side in told["places"]]
                store = cls(
                    str(told["model"]),
                    str(told["embedder"]),
                    places,
                    file.get_tensor("embeddings"),
                    file.get_tensor("gates"),
                )
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise RoutingStoreError(f"{path} cannot be read: {error!r}") from error
        if (store.model, store.embedder) != (model, embedder):
            raise RoutingStoreError(
                f"{path} holds gates of {store.model} by {store.embedder}, not of {model} by {embedder}"
            )
        return store


def empty_store(model: str, embedder: str, places: Sequence[Place], width: int) -> RoutingStore:
    """A store without questions."""
    return RoutingStore(
        model,
        embedder,
        places,
        np.zeros((0, width), np.float32),
        np.zeros((0, len(places), len(EXPERTS)), np.float32),
    )


def _unit(vectors: Vector) -> NDArray[np.float32]:
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise RoutingStoreError("an embedding is zero or not finite")
    unit: NDArray[np.float32] = (wide / lengths).astype(np.float32)
    return unit
