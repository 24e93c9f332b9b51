"""Arguments that the optimizers of Keras 2, Keras 3 and R's keras3 share."""

from typing import Any

import jax
import numpy as np

from optadamw.base.errors import invalid, mistyped
from optadamw.dialects.calls.callables import FirstCopy, schedule
from optadamw.dialects.calls.checks import whole


def rate(value: Any) -> Any:
    """Check `learning_rate` as Keras does: a float, a schedule, or a callable.

    Raises:
      TypeError: an integer (1 where 1.0 is meant is a common slip), None, a string.
    """
    is_array = isinstance(value, np.ndarray | np.floating | jax.Array)
    if is_array and np.issubdtype(value.dtype, np.integer):
        raise mistyped("learning_rate", "a float, and not an integer", value)
    if isinstance(value, float) or is_array:
        return value
    if callable(value) and not isinstance(value, type):
        return schedule(value)
    raise mistyped(
        "learning_rate",
        "a float, a schedule `step -> rate`, or a callable without arguments",
        value,
    )


def clips(clipnorm: Any, clipvalue: Any, global_clipnorm: Any) -> dict[str, Any]:
    """The clips for `adamw`, of which Keras takes one at most.

    Raises:
      ValueError: more than one is given, or one is 0 or below.
    """
    given = {
        "clipnorm": clipnorm,
        "clipvalue": clipvalue,
        "global_clipnorm": global_clipnorm,
    }
    several = {name: value for name, value in given.items() if value is not None}
    if len(several) > 1:
        shown = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(
            "Only one of `clipnorm`, `clipvalue` and `global_clipnorm` can be set. "
            f"Received: {shown}. optadamw.adamw combines them."
        )
    for name, value in several.items():
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if known and not value > 0:
            raise invalid(
                name,
                "> 0 or None",
                value,
                "Keras takes it in silence and does not clip: leave it out.",
            )
    return {
        "clip_norm": clipnorm,
        "clip_value": clipvalue,
        "clip_global_norm": global_clipnorm,
    }


def average(
    use_ema: Any, momentum: Any, every: Any, *, first_copy: bool
) -> dict[str, Any]:
    """The average for `adamw`.

    The average of Keras 3 begins as a copy of the parameters after the first step
    (`first_copy`); that of Keras 2 begins as a copy of the initial parameters.
    """
    if not isinstance(use_ema, bool):
        raise mistyped("use_ema", "True or False", use_ema)
    momentum = _momentum(momentum, use_ema)
    every = whole("ema_overwrite_frequency", every, 1, "never overwrites")
    if not use_ema:
        if every is not None:
            raise ValueError(
                "`ema_overwrite_frequency` has no effect without `use_ema`; got "
                f"{every!r}. Give use_ema=True, or leave it out."
            )
        return {}
    decay = FirstCopy(momentum) if first_copy else momentum
    return {"ema_decay": decay, "ema_overwrite_every": every}


def _momentum(value: Any, is_used: bool) -> float:
    if isinstance(value, np.ndarray | jax.Array) and not is_used:
        return 0.0  # optax.inject_hyperparams makes arrays of all numbers
    if isinstance(value, np.ndarray | jax.Array) and not isinstance(
        value, jax.core.Tracer
    ):
        value = jax.device_get(value).item() if value.size == 1 else value
    is_number = isinstance(value, int | float | np.floating)
    if not is_number or isinstance(value, bool):
        raise mistyped("ema_momentum", "a number in the range [0, 1]", value)
    if not 0 <= value <= 1:
        raise invalid("ema_momentum", "in the range [0, 1]", value)
    return float(value)


def decay(weight_decay: Any, optimizer: str) -> Any:
    """Check that `weight_decay` is not None, which Keras refuses."""
    if weight_decay is None:
        raise mistyped(
            "weight_decay",
            f"a float: argument `weight_decay` of {optimizer} must be given",
            weight_decay,
            "Use 0.0 for no decay.",
        )
    return weight_decay
