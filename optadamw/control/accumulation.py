"""Accumulation: the length of a window of micro-batches, and their weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import (
    Clock,
    Constant,
    Dynamic,
    Scheduled,
    fitting,
    real_scalar,
)
from optadamw.base.types import Array
from optadamw.store.dense import Dense

ABORTED = -1.0
"""The value of `State.weight` until the end of a window that was aborted."""


@dataclass(frozen=True)
class Accumulation:
    """The checked arguments of `multi_steps`.

    Attributes:
      every: micro-batches in a window.
      use_grad_mean: whether a step gets the mean of the gradients, or their sum.
      store: the format of the accumulator.
    """

    every: Constant | Dynamic | Scheduled
    use_grad_mean: bool
    store: Dense

    def due(self, clock: Clock) -> Array:
        """Return the number of micro-batches in this window, int32, in [1, 2**30]."""
        every = jnp.round(jnp.asarray(self.every.at(clock), clock.dtype))
        return jnp.clip(jnp.nan_to_num(every, nan=1.0), 1, 2**30).astype(jnp.int32)

    def scale(self, weight: Array, clock: Clock) -> Array | None:
        """Return the factor that makes a mean of the accumulated sum; None: 1."""
        if not self.use_grad_mean:
            return None
        wide = weight.astype(clock.dtype)
        # A reciprocal, because XLA replaces a shared divisor by one in some programs
        # only, and the bits would depend on the program.
        return 1 / jnp.where(wide > 0, wide, 1)


def weight_of(extra: Mapping[str, Any]) -> Array | None:
    """Return the weight of a micro-batch, float32; None if none was passed.

    Raises:
      TypeError, ValueError: the weight is no real scalar, or it is known and negative
        or not finite. A weight of 0 and a traced weight out of range raise nothing:
        the micro-batch is counted as dropped.
    """
    weight = extra.get("weight")
    if weight is None:
        return None
    array = real_scalar("weight", weight)
    if not isinstance(weight, jax.Array):
        with np.errstate(over="ignore"):
            known = float(np.asarray(fitting(weight), np.float32))
        if not (np.isfinite(known) and known >= 0):
            raise invalid(
                "weight",
                "finite and >= 0",
                weight,
                "It is the share of the micro-batch in the mean, such as its number "
                "of tokens.",
            )
    return array.astype(jnp.float32)
