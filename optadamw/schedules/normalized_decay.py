"""The weight decay that suits a number of steps (appendix B.1 of the paper)."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from optadamw.base.errors import invalid, mistyped
from optadamw.base.plain import python_number, whole_number
from optadamw.base.types import Array
from optadamw.schedules.restarts import CosineWarmRestarts
from optadamw.schedules.value import call_text


@dataclass(frozen=True, repr=False)
class NormalizedWeightDecay:
    """The schedule that `normalized_weight_decay(norm, restarts=...)` returns."""

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
    r"""Compute the weight decay that suits the number of steps of a training.

        lambda = norm * sqrt(b / (B T)) = norm / sqrt(steps)

    with batch size b, B training points and T epochs: a training has B T / b steps. In
    a training with restarts, the steps of the current period count, and not those of
    the whole training. Give `steps` or `restarts`, and not both.

    Source: arXiv 1711.05101v3, appendix B.1; usual values of `norm` are 0.025 to 0.05.

    Args:
      norm: the weight decay of a training of one step, >= 0.
      steps: number of steps of the whole training, a whole number >= 1. None (default):
        `restarts` is given.
      restarts: the schedule that `cosine_warm_restarts` returned. None (default):
        `steps` is given.

    Returns:
      The weight decay: a number if `steps` is given, a schedule if `restarts` is given.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type, or
        `steps` and `restarts` are both given or both left out.

    Example:
      >>> import optadamw
      >>> optadamw.normalized_weight_decay(0.05, steps=10_000)
      0.0005
    """
    norm = python_number("norm", norm, "a number >= 0")
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
    count = whole_number("steps", steps, "a whole number of steps >= 1", 1)
    return float(norm) / math.sqrt(count)
