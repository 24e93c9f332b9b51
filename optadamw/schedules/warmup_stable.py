"""Warm-up, a long constant, a short decay: WSD, which can go on from its constant."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from optadamw.base.errors import invalid
from optadamw.base.hyperparameters import Dynamic
from optadamw.base.types import Array, Number
from optadamw.schedules.arguments import number, step_count
from optadamw.schedules.value import call_text

Shape: TypeAlias = Literal["linear", "cosine", "1-sqrt"]

_SHAPES = {
    "linear": lambda u: u,
    "cosine": lambda u: 0.5 * (1 - jnp.cos(jnp.pi * u)),
    "1-sqrt": jnp.sqrt,
}
"""How far the value has come from the peak to the end, when `u` of the decay is over.

The functions are 1 - f: 0 for 0, so that the constant is the peak exactly.
"""


@dataclass(frozen=True, repr=False)
class WarmupStableDecay:
    """The schedule that `warmup_stable_decay_schedule` returns."""

    init_value: int | float | Dynamic
    peak_value: int | float | Dynamic
    warmup_steps: int
    stable_steps: int
    decay_steps: int
    end_value: int | float | Dynamic
    decay: Shape

    def __call__(self, step: Any) -> Array:
        """The value after `step` finished optimizer steps."""
        step, real = jnp.asarray(step), jnp.result_type(float)
        late = jnp.clip(
            step - self.warmup_steps - self.stable_steps, 0, self.decay_steps
        )
        fallen = _SHAPES[self.decay](late.astype(real) / self.decay_steps)
        # An array may be of another float than the computation.
        with jax.numpy_dtype_promotion("standard"):
            first, peak, last = map(
                _known, (self.init_value, self.peak_value, self.end_value)
            )
            # Not left to rounding: a compiled division by 30 may end at 1.0000001.
            is_over = late == self.decay_steps
            value = jnp.where(is_over, last, peak - (peak - last) * fallen)
            if self.warmup_steps:
                early = jnp.clip(step, 0, self.warmup_steps).astype(real)
                rising = first + (peak - first) * (early / self.warmup_steps)
                value = jnp.where(step < self.warmup_steps, rising, value)
            return value

    @property
    def horizon(self) -> int:
        """The step from which on the value is `end_value`."""
        return self.warmup_steps + self.stable_steps + self.decay_steps

    def __repr__(self) -> str:
        arguments = {name: _known(value) for name, value in vars(self).items()}
        name = "warmup_stable_decay_schedule"
        return call_text(name, warmup_stable_decay_schedule, arguments)


def warmup_stable_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    end_value: Number = 0.0,
    decay: Shape = "1-sqrt",
) -> WarmupStableDecay:
    """A linear warm-up, a constant and a decay (WSD), which Optax does not have.

        value = init_value + (peak_value - init_value) step / warmup_steps, at first
        value = peak_value, for `stable_steps` steps
        value = end_value + (peak_value - end_value) f(u), at the end, where
        f(u) = 1 - u               "linear"
        f(u) = (1 + cos(pi u)) / 2 "cosine"
        f(u) = 1 - sqrt(u)         "1-sqrt"
        u = (step - warmup_steps - stable_steps) / decay_steps, within [0, 1]

    The length of the training need not be known before the decay begins: restore a
    checkpoint of the constant part with a schedule of more `stable_steps`.

    Source: arXiv 2404.06395 (WSD); arXiv 2405.18392, where decays of 10 % to 20 % of
    the steps match a cosine, and "1-sqrt" is better than "linear".

    Args:
      init_value: the value at step 0.
      peak_value: the value after the warm-up.
      warmup_steps: length of the warm-up, >= 0.
      stable_steps: length of the constant, >= 0.
      decay_steps: length of the decay alone, >= 1. (In
        `warmup_cosine_decay_schedule` Optax calls the whole length so.)
      end_value: the value after the decay; 0 by default.
      decay: the shape of the decay, "1-sqrt" by default.

    Returns:
      A schedule; it equals every other one that is made with equal arguments.

    Raises:
      ValueError, TypeError: an argument is out of its range or of a wrong type.

    Example:
      >>> from optadamw import schedules
      >>> rate = schedules.warmup_stable_decay_schedule(0.0, 1.0, 10, 80, 10)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 90, 95, 100)]
      [0.0, 0.5, 1.0, 1.0, 0.2929, 0.0]
    """
    if decay not in tuple(_SHAPES):
        raise invalid("decay", " or ".join(map(repr, _SHAPES)), decay)
    warmup = step_count("warmup_steps", warmup_steps, least=0)
    stable = step_count("stable_steps", stable_steps, least=0)
    falling = step_count("decay_steps", decay_steps)
    whole = "warmup_steps + stable_steps + decay_steps"
    step_count(whole, warmup + stable + falling)
    return WarmupStableDecay(
        init_value=number("init_value", init_value),
        peak_value=number("peak_value", peak_value),
        warmup_steps=warmup,
        stable_steps=stable,
        decay_steps=falling,
        end_value=number("end_value", end_value),
        decay=decay,
    )


def _known(value: Any) -> Any:
    return value.value if isinstance(value, Dynamic) else value
