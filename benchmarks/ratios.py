"""Medians and ratios that a noisy machine does not move."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """The median of some samples, and the quartiles around it."""

    median: float
    lower: float
    upper: float


def spread(samples: Sequence[float]) -> Spread:
    """Takes the median and quartiles."""
    lower, median, upper = np.quantile(samples, [0.25, 0.5, 0.75])
    return Spread(float(median), float(lower), float(upper))


def per_round(
    ours: Sequence[float | Sequence[float]], theirs: Sequence[float | Sequence[float]]
) -> Spread:
    """Divides ours by theirs within each round, then takes the median and quartiles.

    What slows the machine for seconds slows both sides of one round's ratio, whereas a
    ratio of medians over the whole run would compare different moments. Where a round
    holds several steps, its median stands for it.
    """
    return spread(
        [
            float(np.median(our) / np.median(their))
            for our, their in zip(ours, theirs, strict=True)
        ]
    )
