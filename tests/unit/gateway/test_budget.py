"""How long experts may take, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.budget import expert_budget


@pytest.mark.parametrize(
    ("wanted", "remaining", "reserve", "expected"),
    [
        (None, None, 5.0, 10.0),
        (3.0, None, 5.0, 3.0),
        (60.0, 30.0, 5.0, 25.0),
        (3.0, 30.0, 5.0, 3.0),
        (None, 12.0, 5.0, 7.0),
        # Under a short deadline each side gets half.
        (None, 4.0, 5.0, 2.0),
        (1.0, 4.0, 5.0, 1.0),
        (None, 0.0, 5.0, 0.0),
        (None, -1.0, 5.0, 0.0),
    ],
)
def test_budget(wanted: float | None, remaining: float | None, reserve: float, expected: float) -> None:
    assert expert_budget(wanted, 10.0, remaining, reserve) == expected


seconds = st.floats(0, 1e4, allow_nan=False)


@given(st.none() | seconds, seconds, seconds, seconds)
def test_never_beyond_the_deadline_nor_the_wish_and_never_negative(
    wanted: float | None, default: float, remaining: float, reserve: float
) -> None:
    budget = expert_budget(wanted, default, remaining, reserve)
    assert 0 <= budget <= remaining
    assert budget <= (default if wanted is None else wanted)
    assert remaining - budget >= min(reserve, remaining / 2) - 1e-9
