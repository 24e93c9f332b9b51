"""The learning rate that a saved state holds, for the formats that have one."""

from collections.abc import Mapping
from typing import Any

from optadamw.dialects.states.arrays import scalar, to_numpy
from optadamw.dialects.states.variables import listed


def rate_by_key(saved: Any, count: int) -> float | None:
    """Return the learning rate in a state of MLX, nested or flattened."""
    del count
    rate = saved.get("learning_rate") if isinstance(saved, Mapping) else None
    return None if rate is None else scalar("learning_rate", rate)


def rate_in_hyperparams(saved: Any, count: int) -> float | None:
    """Return the learning rate in the state of `optax.inject_hyperparams`."""
    if hasattr(saved, "_asdict"):
        saved = saved._asdict()
    if isinstance(saved, Mapping):
        held = saved.get("hyperparams")
        if isinstance(held, Mapping) and held.get("learning_rate") is not None:
            return scalar("learning_rate", held["learning_rate"])
        saved = list(saved.values())
    if not isinstance(saved, list | tuple):
        return None
    found = (rate_in_hyperparams(child, count) for child in saved)
    return next((rate for rate in found if rate is not None), None)


def rate_of_variables(saved: Any, count: int) -> float | None:
    """Return the learning rate among the variables of an optimizer of Keras.

    It is the second variable, or the sixth with those of a LossScaleOptimizer. With a
    schedule Keras has none, and a scalar parameter's moment may stand there: variables
    with a name tell, and otherwise their number, unless there is one parameter.
    """
    try:
        variables = listed("Keras", saved)
    except (TypeError, ValueError):
        return None  # the `from_` function says what is wrong
    named = [v for v in variables if (v.name or "").endswith("/learning_rate")]
    if any(variable.name for variable in variables):
        return None if not named else scalar("learning_rate", named[-1].value)
    for place in (1, 5):
        beside = len(variables) - place - 1
        is_told = count > 1 and beside > 0 and beside % count == 0
        if not is_told or (beside + 1) % count == 0:
            continue
        array = to_numpy("learning_rate", variables[place].value)
        if array.shape == () and array.dtype.kind == "f":
            return float(array)
    return None
