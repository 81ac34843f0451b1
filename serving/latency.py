"""How long will the next batch take? An online estimate from the batches that have run.

A batch costs about `fixed + per_unit * weight`. Both are fitted by least squares over samples that fade
exponentially, so the estimate follows a device that slows down or speeds up. Pure arithmetic: no clock.

Where the batches of late were nearly of one weight, what is remembered says how long those take and nothing about
others: then a batch is thought to cost the same whatever its size. So whoever batches by this estimate tries
batches again from time to time, and learns again what they cost.
"""

from __future__ import annotations

from typing import NamedTuple

_LEAST_SPREAD = 0.01  # of the squared mean weight: below it a slope would be fitted to the clock's noise


class _Line(NamedTuple):
    fixed: float
    slope: float


class LatencyEstimate:
    """Seconds a batch of a given weight (items, or cost units) will take.

    `fade` is how much of its say a sample keeps when the next arrives.
    """

    def __init__(self, fade: float = 0.9) -> None:
        self._fade = fade
        # Faded sums of 1, w, w*w, t and w*t over the samples (weight w, seconds t).
        self._n = self._w = self._ww = self._t = self._wt = 0.0
        self._line = _Line(0.0, 0.0)

    @property
    def known(self) -> bool:
        """Whether any batch has been seen."""
        return self._n > 0

    @property
    def fixed_s(self) -> float:
        """What a batch costs whatever is in it: what each item saves that shares one. All of it, while only one weight
        is known; 0 while nothing is."""
        return self._line.fixed

    def observe(self, weight: float, seconds: float) -> None:
        """Learn from a batch that has run."""
        self._n = self._n * self._fade + 1
        self._w = self._w * self._fade + weight
        self._ww = self._ww * self._fade + weight * weight
        self._t = self._t * self._fade + seconds
        self._wt = self._wt * self._fade + weight * seconds
        self._line = self._fitted()

    def seconds(self, weight: float) -> float:
        """The estimate for a batch of `weight`: never negative or falling in weight, 0 while unknown."""
        return self._line.fixed + self._line.slope * weight

    def ease(self) -> None:
        """Shrink the estimate a little.

        Called whenever work was refused on its strength: one slow batch must not shut the door for ever,
        since refused work can never show that the device is quick again.
        """
        self._t *= 0.95
        self._wt *= 0.95
        self._line = _Line(self._line.fixed * 0.95, self._line.slope * 0.95)

    def _fitted(self) -> _Line:
        mean_w, mean_t = self._w / self._n, self._t / self._n
        spread = self._ww / self._n - mean_w * mean_w
        slope = 0.0
        if spread > _LEAST_SPREAD * mean_w * mean_w:
            slope = max(0.0, (self._wt / self._n - mean_w * mean_t) / spread)
            # A fixed part below zero is noise: the line then runs through the origin.
            if slope * mean_w > mean_t:
                slope = mean_t / mean_w
        return _Line(max(0.0, mean_t - slope * mean_w), slope)
