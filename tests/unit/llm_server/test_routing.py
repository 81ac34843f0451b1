"""The routing store: kernel regression over stored questions, kept in a file, refused where it does not belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from llm_server.models.gates import BlendedGate, Triple
from llm_server.routing import Place, RoutingStore, RoutingStoreError, empty_store

PLACES: tuple[Place, ...] = ((7, "image"), (7, "language"))
AUX: dict[Place, Triple] = dict.fromkeys(PLACES, (1.0, 0.0, 0.0))
CROSS: dict[Place, Triple] = dict.fromkeys(PLACES, (0.0, 1.0, 0.0))
EAST, NORTH = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])


def store() -> RoutingStore:
    nothing = empty_store("moai-7b", "words-1", PLACES, 3)
    return nothing.with_question(5 * EAST, AUX).with_question(NORTH, CROSS)


def gate(routed: Any, place: Place = PLACES[0]) -> BlendedGate:
    found = routed.overrides.of(*place)
    assert isinstance(found, BlendedGate)
    return found


def test_a_question_gets_the_gates_of_its_likes() -> None:
    routed = store().route(np.array([2.0, 0.1, 0.0]), share=0.7)
    assert gate(routed).weights[0] > 0.99
    assert gate(routed).share == 0.7
    assert routed is not None
    assert [each.number for each in routed.neighbours] == [0]  # the other one is out of reach


def test_between_two_questions_lie_their_means() -> None:
    routed = store().route(EAST + NORTH)
    assert gate(routed).weights == pytest.approx((0.5, 0.5, 0.0))
    nearer = gate(store().route(EAST + 0.8 * NORTH)).weights
    assert nearer[0] > 0.5 > nearer[1] > 0


def test_no_likes_no_override() -> None:
    assert store().route(np.array([0.0, 0.0, 1.0])) is None
    assert empty_store("moai-7b", "words-1", PLACES, 3).route(EAST) is None


def test_a_narrow_kernel_is_the_nearest_neighbour() -> None:
    routed = store().route(EAST + 0.99 * NORTH, bandwidth=1e-6)
    assert gate(routed).weights == (1.0, 0.0, 0.0)


@given(
    gates=st.lists(st.lists(st.floats(0, 1), min_size=6, max_size=6), min_size=1, max_size=6),
    seed=st.integers(0, 999),
    neighbours=st.integers(1, 8),
)
def test_weights_stay_within_those_stored(gates: list[list[float]], seed: int, neighbours: int) -> None:
    random = np.random.default_rng(seed)
    stored = np.array(gates, np.float32).reshape(-1, 2, 3)
    embeddings = random.normal(size=(len(stored), 4))
    routed = RoutingStore("m", "e", PLACES, embeddings, stored).route(
        random.normal(size=4), neighbours=neighbours, reach=2.1
    )
    assert routed is not None
    assert len(routed.neighbours) == min(neighbours, len(stored))
    assert sum(each.weight for each in routed.neighbours) == pytest.approx(1)
    assert [each.distance for each in routed.neighbours] == sorted(
        each.distance for each in routed.neighbours
    )
    for index, place in enumerate(PLACES):
        weights = np.array(gate(routed, place).weights)
        assert (weights >= stored[:, index].min(axis=0) - 1e-6).all()
        assert (weights <= stored[:, index].max(axis=0) + 1e-6).all()


def test_it_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "routing.safetensors"
    store().save(path)
    again = RoutingStore.load(path, model="moai-7b", embedder="words-1")
    assert len(again) == 2
    assert again.route(EAST + NORTH) == store().route(EAST + NORTH)
    with pytest.raises(RoutingStoreError, match="words-1, not of moai-7b by words-2"):
        RoutingStore.load(path, model="moai-7b", embedder="words-2")


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"embeddings": np.zeros(3)}, path)
    with pytest.raises(RoutingStoreError, match="not a routing store"):
        RoutingStore.load(path, model="m", embedder="e")
    path.write_bytes(b"nonsense")
    with pytest.raises(RoutingStoreError, match="cannot be read"):
        RoutingStore.load(path, model="m", embedder="e")
    save_file({}, path, metadata={"format": "polysight-routing-1", "store": "{}"})
    with pytest.raises(RoutingStoreError, match="cannot be read"):
        RoutingStore.load(path, model="m", embedder="e")


@pytest.mark.parametrize(
    "arguments",
    [{"neighbours": 0}, {"bandwidth": 0.0}, {"bandwidth": float("nan")}, {"share": 1.5}],
)
def test_parameters_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(RoutingStoreError):
        store().route(EAST, **arguments)


@pytest.mark.parametrize("embedding", [np.zeros(3), np.ones(4), np.array([1.0, np.nan, 0.0])])
def test_embeddings_that_do_not_fit_are_refused(embedding: Any) -> None:
    with pytest.raises(RoutingStoreError):
        store().route(embedding)
    with pytest.raises(RoutingStoreError):
        store().with_question(embedding, AUX)


def test_gates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RoutingStoreError, match="given for"):
        store().with_question(EAST, {PLACES[0]: (1.0, 0.0, 0.0)})
    with pytest.raises(RoutingStoreError, match="not below 0"):
        store().with_question(EAST, AUX | {PLACES[0]: (1.0, -1.0, 0.0)})
    with pytest.raises(RoutingStoreError, match="do not fit"):
        RoutingStore("m", "e", PLACES, np.ones((1, 3)), np.ones((2, 2, 3)))
    with pytest.raises(RoutingStoreError, match="each once"):
        RoutingStore("m", "e", (PLACES[0], PLACES[0]), np.ones((1, 3)), np.ones((1, 2, 3)))
