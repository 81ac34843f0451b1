"""How long experts may take. Pure."""

from __future__ import annotations


def expert_budget(
    wanted_s: float | None, default_s: float, remaining_s: float | None, reserve_s: float
) -> float:
    """Seconds to wait for experts: what the caller wants, never into what is kept of the caller's deadline.

    Args:
        wanted_s: the caller's budget; None takes `default_s`.
        remaining_s: until the caller's own deadline; None if there is none.
        reserve_s: kept of the deadline for what comes after the experts, but never more than half of it: under a
            short deadline the experts get the other half.
    """
    wanted = default_s if wanted_s is None else wanted_s
    if remaining_s is None:
        return wanted
    return max(0.0, min(wanted, remaining_s - min(reserve_s, remaining_s / 2)))
