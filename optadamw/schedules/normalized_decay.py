"""The weight decay that suits a number of steps (appendix B.1 of the paper)."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from optadamw.base.errors import invalid, mistyped
from optadamw.base.types import Array
from optadamw.schedules.restarts import CosineWarmRestarts
from optadamw.schedules.value import call_text


@dataclass(frozen=True, repr=False)
class NormalizedWeightDecay:
    """A normalized decay over the square root of the steps of the present period."""

    norm: float
    restarts: CosineWarmRestarts

    def __call__(self, step: Any) -> Array:
        return self.norm / jnp.sqrt(self.restarts.period(step))

    def __repr__(self) -> str:
        arguments = vars(self) | {"steps": None}
        name = "normalized_weight_decay"
        return call_text(name, normalized_weight_decay, arguments)


def normalized_weight_decay(
    norm: float,
    *,
    steps: int | None = None,
    restarts: CosineWarmRestarts | None = None,
) -> float | NormalizedWeightDecay:
    r"""The weight decay that suits a number of steps.

        lambda = norm * sqrt(b / (B T)) = norm / sqrt(steps)

    with batch size b, B training points and T epochs, so that b / (B T) is one over the
    number of batches. Under restarts it is that of the present period.

    Source: arXiv 1711.05101v3, appendix B.1; usual values of `norm` are 0.025 to 0.05.

    Args:
      norm: the normalized decay, >= 0.
      steps: batches of the whole training; or
      restarts: the schedule whose periods count.

    Returns:
      A number, or a schedule.

    Raises:
      ValueError, TypeError: a value out of its range, or not one of the two.

    Example:
      >>> import optadamw
      >>> optadamw.normalized_weight_decay(0.05, steps=10_000)
      0.0005
    """
    if isinstance(norm, bool) or not isinstance(norm, int | float):
        raise mistyped("norm", "a number >= 0", norm)
    if not (math.isfinite(norm) and norm >= 0):
        raise invalid("norm", "finite and >= 0", norm)
    if (steps is None) == (restarts is None):
        raise ValueError(
            f"Give one of `steps` and `restarts`; got {steps!r} and {restarts!r}."
        )
    if restarts is not None:
        if not isinstance(restarts, CosineWarmRestarts):
            raise mistyped("restarts", "what cosine_warm_restarts returned", restarts)
        return NormalizedWeightDecay(float(norm), restarts)
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise mistyped("steps", "a whole number of steps >= 1", steps)
    if steps < 1:
        raise invalid("steps", "a whole number of steps >= 1", steps)
    return float(norm) / math.sqrt(steps)
