"""How long will the next batch take? An online estimate from the batches that have run.

A batch costs about `fixed + per_unit * weight`. Both are fitted by least squares over samples that fade
exponentially, so the estimate follows a device that slows down or speeds up. Pure arithmetic: no clock.
"""

from __future__ import annotations


class LatencyEstimate:
    """Seconds a batch of a given weight (items, or cost units) will take.

    `fade` is how much of its say a sample keeps when the next arrives.
    """

    def __init__(self, fade: float = 0.9) -> None:
        self._fade = fade
        # Faded sums of 1, w, w*w, t and w*t over the samples (weight w, seconds t).
        self._n = self._w = self._ww = self._t = self._wt = 0.0

    @property
    def known(self) -> bool:
        """Whether any batch has been seen."""
        return self._n > 0

    def observe(self, weight: float, seconds: float) -> None:
        """Learn from a batch that has run."""
        self._n = self._n * self._fade + 1
        self._w = self._w * self._fade + weight
        self._ww = self._ww * self._fade + weight * weight
        self._t = self._t * self._fade + seconds
        self._wt = self._wt * self._fade + weight * seconds

    def seconds(self, weight: float) -> float:
        """The estimate for a batch of `weight`: never negative or falling in weight, 0 while unknown."""
        if not self.known:
            return 0.0
        mean_w, mean_t = self._w / self._n, self._t / self._n
        spread = self._ww / self._n - mean_w * mean_w
        # Samples of one weight say nothing about the slope; then a batch costs what batches cost.
        slope = 0.0
        if spread > 1e-9 * max(1.0, mean_w * mean_w):
            slope = max(0.0, (self._wt / self._n - mean_w * mean_t) / spread)
            # A fixed part below zero is noise: the line then runs through the origin.
            if slope * mean_w > mean_t:
                slope = mean_t / mean_w
        return max(0.0, mean_t + slope * (weight - mean_w))

    def ease(self) -> None:
        """Shrink the estimate a little.

        Called whenever work was refused on its strength: one slow batch must not shut the door for ever,
        since refused work can never show that the device is quick again.
        """
        self._t *= 0.95
        self._wt *= 0.95
