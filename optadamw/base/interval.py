"""The legal values of a number, and the text with which an error names them."""

import math
from dataclasses import dataclass
from functools import reduce

import jax.numpy as jnp
import numpy as np

from optadamw.base.types import Array


@dataclass(frozen=True)
class Interval:
    """A range of legal numbers; errors show it as a text such as "in [0, 1)"."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def holds(self, value: Array, dtype: np.dtype) -> Array:
        """Return whether an array is legal, as a bool of its shape; it may be traced.

        The value must be finite, and inside a lower limit that is not legal itself,
        also in `dtype`: a rate of 1e39 is infinity in float32, a limit of 1e-60 is 0.
        """
        held = value.astype(dtype)
        low = (
            (value > self.low, held > self.low)
            if self.open_low
            else (value >= self.low,)
        )
        high = value < self.high if self.open_high else value <= self.high
        return reduce(jnp.logical_and, (*low, high, jnp.isfinite(held)))

    def __str__(self) -> str:
        if math.isinf(self.low):
            return "finite" if math.isinf(self.high) else f"<= {self.high:g}"
        if math.isinf(self.high):
            return f"finite and {'>' if self.open_low else '>='} {self.low:g}"
        left = "(" if self.open_low else "["
        right = ")" if self.open_high else "]"
        return f"in {left}{self.low:g}, {self.high:g}{right}"


NON_NEGATIVE = Interval(low=0.0)
POSITIVE = Interval(low=0.0, open_low=True)
BETA = Interval(low=0.0, high=1.0, open_high=True)
FRACTION = Interval(low=0.0, high=1.0)
