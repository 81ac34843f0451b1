"""Confidence intervals of scores by the bootstrap, resampling whole pictures.

Questions about one picture share what the experts saw in it, so their scores are not independent; drawing pictures
instead of questions keeps that (cluster bootstrap; Cameron, Gelbach and Miller 2008). Intervals are percentiles of the
resampled means. A single picture gives no idea of the spread between pictures: there questions are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 2000
LEVEL: Final = 0.95
_AT_A_TIME: Final = 250


def resampled_means(
    scores: Sequence[Sequence[float]] | NDArray[np.float64],
    clusters: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Means of each column of `scores` (questions x columns) in `resamples` draws: (resamples, columns) float64.

    All columns see the same draws, so that differences and ratios of columns are paired.

    Raises:
        ValueError: no scores, or not as many clusters as rows.
    """
    table = np.asarray(scores, np.float64)
    if table.ndim != 2 or not len(table) or len(table) != len(clusters):
        raise ValueError("a table of scores and one cluster for each of its rows")
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) == 1:
        member = np.arange(len(table))
    groups = int(member.max()) + 1
    sums = np.zeros((groups, table.shape[1]))
    np.add.at(sums, member, table)
    sizes = np.bincount(member, minlength=groups)
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, table.shape[1]))
    # Some at a time, so that many pictures need no table of pictures x resamples.
    for start in range(0, resamples, _AT_A_TIME):
        size = min(_AT_A_TIME, resamples - start)
        times = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=size)
        drawn[start : start + size] = (times @ sums) / (times @ sizes)[:, None]
    return drawn


def interval(
    scores: Sequence[float],
    clusters: Sequence[str],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The interval that holds the mean with probability `level`; raises ValueError where there are no scores."""
    means = resampled_means([[score] for score in scores], clusters, resamples=resamples, seed=seed)[:, 0]
    return percentiles(means, level)


def percentiles(draws: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """The central `level` of the draws."""
    low, high = np.quantile(draws, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)
