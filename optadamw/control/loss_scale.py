"""Loss scaling: the factor that keeps 16-bit gradients in range.

The dynamic sequence is that of PyTorch's `torch.amp.GradScaler` and Keras's
`LossScaleOptimizer`: the scale grows after a number of good steps in a row and shrinks
at each gradient that is not finite. The bounds are an addition: Keras's scale never
leaves infinity or 0 again.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from optadamw.base.errors import invalid, mistyped
from optadamw.base.hyperparameters import Constant, Dynamic, hyperparameter
from optadamw.base.interval import POSITIVE
from optadamw.base.plain import whole_number
from optadamw.base.types import Array

Counts = Literal["steps", "gradients"]

SMALLEST, LARGEST = 2.0**-126, 2.0**126
"""Bounds of a loss scale: those within which it and its reciprocal are normal numbers.

The reciprocal of 2**127 is subnormal in float32, and XLA takes it for 0.
"""


@dataclass(frozen=True)
class StaticLossScale:
    """A loss scale that stays as the user gave it."""

    scale: Constant | Dynamic

    def initial(self) -> Array:
        """Return the scale as a float32 scalar."""
        return jnp.asarray(self.scale.value, jnp.float32)


@dataclass(frozen=True)
class DynamicLossScale:
    """A loss scale that grows after good steps and shrinks after bad gradients.

        bad gradient:      scale = max(minimum, scale * backoff_factor)
        growth_interval good optimizer steps since the last change:
                           scale = min(maximum, scale * growth_factor)

    in float32. A gradient is bad here if it is not finite; a spike (`skip_spikes`) does
    not shrink the scale. With `growth_factor=2, backoff_factor=0.5` the sequence is
    that of Keras's `LossScaleOptimizer` (`dynamic_growth_steps` is the interval), and
    with all defaults but `initial=2**16` that of PyTorch's `GradScaler`, both within
    the bounds and to the last bit. (A factor that float32 cannot represent, such as
    1.1, is rounded to float32 first; PyTorch multiplies by the double, and the two
    scales differ by an ulp after most changes.)

    Attributes:
      initial: the first scale, in [minimum, maximum]; default: 2**15.
      growth_factor: the factor by which the scale grows, > 1; default: 2.
      backoff_factor: the factor by which the scale shrinks, in (0, 1); default: 0.5.
      growth_interval: good steps until the scale grows, a whole number >= 1; default:
        2000.
      minimum: the smallest scale, >= 2**-126; it may be below 1; default: 2**-14.
      maximum: the largest scale, <= 2**126; default: 2**24. (PyTorch has no bound,
        which `minimum=2**-126, maximum=2**126` comes closest to.)
      counts: "steps" (default) counts good optimizer steps until the scale grows, as
        PyTorch does; "gradients" counts all good gradients, as Keras does, including
        those that only accumulate.

    Raises:
      ValueError, TypeError: an attribute is out of its range or of a wrong type.

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
        interval = whole_number(
            "growth_interval", self.growth_interval, "a whole number of steps >= 1"
        )
        if not 1 <= interval < 2**31:
            raise invalid("growth_interval", "whole and in [1, 2**31)", interval)
        object.__setattr__(self, "growth_interval", interval)
        if self.counts not in ("steps", "gradients"):
            raise invalid("counts", "'steps' or 'gradients'", self.counts)
        if not self.growth_factor > 1:
            raise invalid("growth_factor", "> 1", self.growth_factor)
        if not self.backoff_factor < 1:
            raise invalid("backoff_factor", "in (0, 1)", self.backoff_factor)
        if self.maximum > LARGEST or self.minimum < SMALLEST:
            raise ValueError(
                "`minimum` and `maximum` must lie in [2**-126, 2**126], where the "
                "reciprocal is no subnormal number; got "
                f"{self.minimum!r} and {self.maximum!r}."
            )
        if not self.minimum <= self.initial <= self.maximum:
            raise invalid(
                "initial", f"in [{self.minimum!r}, {self.maximum!r}]", self.initial
            )

    def after(
        self, scale: Array, growth: Array, bad: Array, good: Array
    ) -> tuple[Array, Array]:
        """Return the next scale and the next count of good steps.

        Args:
          scale: the present scale.
          growth: good steps since the last change.
          bad: whether the gradient was not finite.
          good: whether this call counts as a good step.
        """
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
