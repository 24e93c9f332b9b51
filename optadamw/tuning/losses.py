"""The losses of a range test, smoothed as they come."""

import math


class Losses:
    """The losses and their moving average, corrected for its start."""

    def __init__(self, smoothing: float) -> None:
        self.values: list[float] = []
        self.smoothed: list[float] = []
        self.smoothing = smoothing
        self._mean, self._least = 0.0, math.inf

    def add(self, loss: float) -> None:
        """Add the loss of one step more."""
        self.values.append(loss)
        self._mean = self.smoothing * self._mean + (1 - self.smoothing) * loss
        smoothed = self._mean / (1 - self.smoothing ** len(self.values))
        self.smoothed.append(smoothed)
        self._least = min(self._least, smoothed)

    @property
    def have_diverged(self) -> bool:
        """Whether the last loss is not finite, or its average is too large."""
        if not math.isfinite(self.values[-1]):
            return True
        scale = max(abs(self._least), self.values[0] - self._least)
        return self.smoothed[-1] > self._least + 3 * scale
