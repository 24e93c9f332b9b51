"""The learning rate that a saved state holds, for the formats that have one."""

from collections.abc import Mapping, Sequence
from typing import Any

from optadamw.dialects.states.arrays import scalar, to_numpy
from optadamw.dialects.states.variables import Variable, is_scaled, listed


def rate_by_key(saved: Any, count: int) -> dict[str, float]:
    """Return the learning rate in a state of MLX, nested or flattened."""
    del count
    rate = saved.get("learning_rate") if isinstance(saved, Mapping) else None
    return {} if rate is None else {"learning_rate": scalar("learning_rate", rate)}


def rate_of_variables(saved: Any, count: int) -> dict[str, float]:
    """Return the learning rate among the variables of an optimizer of Keras.

    It is the second variable, or the sixth with those of a LossScaleOptimizer. With a
    schedule Keras has none, and a scalar parameter's moment may stand there: variables
    with a name tell, and otherwise their number, unless there is one parameter.
    """
    try:
        variables = listed("Keras", saved)
    except (TypeError, ValueError):
        return {}  # the `from_` function says what is wrong
    rate = _rate(variables, count)
    return {} if rate is None else {"learning_rate": rate}


def _rate(variables: Sequence[Variable], count: int) -> float | None:
    named = [v for v in variables if (v.name or "").endswith("/learning_rate")]
    if any(variable.name for variable in variables):
        return None if not named else scalar("learning_rate", named[-1].value)
    # The rate of a LossScaleOptimizer itself, 0, stands first and is not used.
    place = 5 if is_scaled(variables) else 1
    beside = len(variables) - place - 1
    if count == 1 or beside <= 0 or beside % count or (beside + 1) % count == 0:
        return None
    array = to_numpy("learning_rate", variables[place].value)
    is_rate = array.shape == () and array.dtype.kind == "f"
    return float(array) if is_rate else None
