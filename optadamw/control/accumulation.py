"""Accumulation: when a window of micro-batches is full, and what each one weighs."""

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
    real_scalar,
)
from optadamw.base.types import Array
from optadamw.store.dense import Dense

ABORTED = -1.0
"""The value of `State.weight` for the rest of a window that was aborted."""


@dataclass(frozen=True)
class Accumulation:
    """How many gradients make a step, and whether they are averaged or summed."""

    every: Constant | Dynamic | Scheduled
    use_grad_mean: bool
    store: Dense

    def due(self, clock: Clock) -> Array:
        """Micro-batches in the present window; a schedule is held in [1, 2**30]."""
        every = jnp.round(jnp.asarray(self.every.at(clock), clock.dtype))
        return jnp.clip(jnp.nan_to_num(every, nan=1.0), 1, 2**30).astype(jnp.int32)

    def scale(self, weight: Array, clock: Clock) -> Array | None:
        """What the accumulated sum is multiplied by; None for nothing."""
        if not self.use_grad_mean:
            return None
        wide = weight.astype(clock.dtype)
        # A reciprocal: XLA makes one of a shared divisor in some programs only.
        return 1 / jnp.where(wide > 0, wide, 1)


def weight_of(extra: Mapping[str, Any]) -> Array | None:
    """The weight of a micro-batch, float32, or None where none was passed.

    Raises:
      TypeError, ValueError: not a real scalar, or a known one that is negative or not
        finite. Zero, and a traced weight out of range, is counted and not an error.
    """
    weight = extra.get("weight")
    if weight is None:
        return None
    if isinstance(weight, int) and abs(weight) > np.finfo(np.float32).max:
        weight = np.inf * np.sign(weight)
    array = real_scalar("weight", weight)
    if not isinstance(weight, jax.Array):
        known = float(np.asarray(weight, np.float32))
        if not (np.isfinite(known) and known >= 0):
            raise invalid(
                "weight",
                "finite and >= 0",
                weight,
                "It is what the micro-batch counts for, such as its tokens.",
            )
    return array.astype(jnp.float32)
