"""The time of a training run, from which schedules and bias corrections follow."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.numerics import saturating_increment
from optadamw.base.types import Array


class Clock(NamedTuple):
    """The time of a training run, from which schedules and bias corrections follow.

    Attributes:
      step: number of finished optimizer steps, int32; the argument of every schedule.
      number: number of the step that is being taken, int32, from 1 on.
      time: `number` in `dtype`: the t of the papers.
      dtype: dtype in which scalars are formed: float64 if x64 is enabled, else float32.
      held: the adjustable numbers of the state by name, float32; None (default): each
        has its first value.
    """

    step: Array
    number: Array
    dtype: np.dtype
    held: Mapping[str, Array] | None = None

    @classmethod
    def at(cls, step: Array, held: Mapping[str, Array] | None = None) -> "Clock":
        """The clock after `step` finished optimizer steps."""
        # With x64 on, scalars are float64 until the leaves get them: 1 - b2 of a
        # float64 array must not be formed in float32.
        wide = jnp.dtype(jax.dtypes.canonicalize_dtype(np.float64))
        return cls(step, saturating_increment(step), wide, held)

    @property
    def time(self) -> Array:
        """Return `number` cast to `dtype`."""
        return self.number.astype(self.dtype)
