"""Loss scaling: the factor that keeps 16-bit gradients in range.

The dynamic sequence is that of PyTorch's `torch.amp.GradScaler` and Keras's
`LossScaleOptimizer`: it grows after a number of good steps in a row and backs off at
each gradient that is not finite. Bounds are ours: Keras's scale sticks at infinity
and at 0.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import POSITIVE, Constant, Dynamic, hyperparameter
from optadamw.base.types import Array

Counts = Literal["steps", "gradients"]

SMALLEST, LARGEST = 2.0**-126, 2.0**127
"""Bounds of a scale: its reciprocal is a normal float32 too, or nearly."""


@dataclass(frozen=True)
class StaticLossScale:
    """A constant factor."""

    scale: Constant | Dynamic

    def initial(self) -> Array:
        return jnp.asarray(self.scale.value, jnp.float32)


@dataclass(frozen=True)
class DynamicLossScale:
    """A loss scale that finds its own size.

        bad gradient:      scale = max(minimum, scale * backoff_factor)
        growth_interval good optimizer steps since the last change:
                           scale = min(maximum, scale * growth_factor)

    in float32. A bad gradient is one that is not finite; a spike is not one. With
    `growth_factor=2, backoff_factor=0.5` it is Keras's `LossScaleOptimizer`
    (`dynamic_growth_steps` is the interval), and with all defaults but `initial=2**16`
    PyTorch's `GradScaler`, both within the bounds and to the last bit. (Factors that
    float32 does not hold, such as 1.1, are rounded to it first; PyTorch multiplies by
    the double, and the two part by an ulp at most changes.)

    Attributes:
      initial: the first scale.
      growth_factor: > 1.
      backoff_factor: in (0, 1).
      growth_interval: a whole number of steps >= 1.
      minimum: > 0; it may be below 1.
      maximum: at most 2**127, which is PyTorch's.
      counts: what is counted until the scale grows: good optimizer "steps", as PyTorch
        does, or good "gradients", those that only accumulate too, as Keras does.

    Raises:
      ValueError, TypeError: a value out of its range, or `initial` out of the bounds.

    Example:
      >>> import optadamw
      >>> scale = optadamw.DynamicLossScale(initial=2.0**10, growth_interval=100)
      >>> tx = optadamw.adamw(1e-3, loss_scale=scale)
    """

    initial: float = 2.0**15
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    minimum: float = 2.0**-14
    maximum: float = 2.0**24
    counts: Counts = "steps"

    def __post_init__(self) -> None:
        for name in (
            "initial",
            "growth_factor",
            "backoff_factor",
            "minimum",
            "maximum",
        ):
            value = getattr(self, name)
            known = hyperparameter(name, value, POSITIVE)
            if not isinstance(known, Constant):
                raise mistyped(name, "a number", value)
        interval = self.growth_interval
        if isinstance(interval, bool) or not isinstance(interval, int | np.integer):
            raise mistyped("growth_interval", "a whole number of steps >= 1", interval)
        if not 1 <= interval < 2**31:
            raise invalid("growth_interval", "whole and in [1, 2**31)", interval)
        if self.counts not in ("steps", "gradients"):
            raise invalid("counts", "'steps' or 'gradients'", self.counts)
        if not self.growth_factor > 1:
            raise invalid("growth_factor", "> 1", self.growth_factor)
        if not self.backoff_factor < 1:
            raise invalid("backoff_factor", "in (0, 1)", self.backoff_factor)
        if self.maximum > LARGEST or self.minimum < SMALLEST:
            raise ValueError(
                "`minimum` and `maximum` must lie in [2**-126, 2**127], where float32 "
                f"is exact; got {self.minimum!r} and {self.maximum!r}."
            )
        if not self.minimum <= self.initial <= self.maximum:
            raise invalid(
                "initial", f"in [{self.minimum!r}, {self.maximum!r}]", self.initial
            )

    def after(
        self, scale: Array, growth: Array, bad: Array, good: Array
    ) -> tuple[Array, Array]:
        """The scale and the count of good steps after a gradient was judged."""
        smaller = jnp.maximum(scale * jnp.float32(self.backoff_factor), self.minimum)
        larger = scale * jnp.float32(self.growth_factor)
        # PyTorch keeps a scale that would grow to infinity.
        larger = jnp.where(jnp.isfinite(larger), larger, scale)
        larger = jnp.minimum(larger, jnp.float32(self.maximum))
        is_full = growth + 1 >= self.growth_interval
        grown = jnp.where(good & is_full, larger, scale)
        count = jnp.where(good, jnp.where(is_full, 0, growth + 1), growth)
        following = jnp.where(bad, smaller, grown).astype(jnp.float32)
        return following, jnp.where(bad, 0, count).astype(jnp.int32)
