"""The points of a sweep: arrays of hyperparameters by name, one number per member."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optadamw.base.errors import invalid, mistyped
from optadamw.base.plain import whole_number

SCALES = ("linear", "log")

RESERVED = ("member", "loss", "live")
"""The fields of a record that are no hyperparameters."""

STRUCTURE = (
    "A sweep is one compiled program over numbers. An option that is a switch, a word "
    "or a dtype changes the structure of the program or of the state: run one sweep "
    "for each of its values."
)
"""The remedy for a point that is no number."""


def grid_points(**values: Sequence[float]) -> dict[str, np.ndarray]:
    """Return every combination of the values of some hyperparameters.

    Args:
      **values: for each name the numbers to try.

    Returns:
      For each name an array with one number for each combination; the last name
      changes fastest. It is the `points` of `sweep`.

    Raises:
      TypeError: a value is no number.
      ValueError: no name is given, or a name has no values.

    Example:
      >>> import optadamw
      >>> points = optadamw.grid_points(
      ...     learning_rate=[1e-3, 1e-2], weight_decay=[0, 1, 2]
      ... )
      >>> points["weight_decay"].tolist()
      [0, 1, 2, 0, 1, 2]
    """
    columns = {name: numbers(name, given) for name, given in values.items()}
    if not columns:
        raise ValueError("`grid_points` needs the values of at least one name.")
    rows = list(itertools.product(*columns.values()))
    return {
        name: np.array([row[i] for row in rows], columns[name].dtype)
        for i, name in enumerate(columns)
    }


def random_points(
    count: int, /, *, seed: int = 0, **ranges: tuple[float, float, str]
) -> dict[str, np.ndarray]:
    """Draw points at random, each number by itself.

    Differs from a grid: `count` points try `count` values of every hyperparameter, so
    that one without effect costs nothing. Source: Bergstra and Bengio, Random Search
    for Hyper-Parameter Optimization, JMLR 13, 2012.

    Args:
      count: the number of points.
      seed: the seed of the draws. Default: 0.
      **ranges: for each name `(low, high, scale)`. The scale "linear" draws evenly
        between `low` and `high`, and "log" evenly between their logarithms.

    Returns:
      For each name an array of `count` numbers, float64. It is the `points` of `sweep`.

    Raises:
      TypeError, ValueError: `count` is no whole number of at least 1, `seed` none of
        at least 0, no range is given, or a range is no `(low, high, scale)` with
        low < high, and low > 0 for "log".

    Example:
      >>> import optadamw
      >>> points = optadamw.random_points(8, learning_rate=(1e-4, 1e-1, "log"))
      >>> points["learning_rate"].shape
      (8,)
    """
    count = whole_number("count", count, "a whole number of points, at least 1", 1)
    seed = whole_number("seed", seed, "a whole number of at least 0", least=0)
    if not ranges:
        raise ValueError("`random_points` needs the range of at least one name.")
    for name, given in ranges.items():
        _check_range(name, given)
    random = np.random.default_rng(seed)
    drawn = {}
    for name, (low, high, scale) in ranges.items():
        if scale == "log":
            drawn[name] = np.exp(random.uniform(math.log(low), math.log(high), count))
        else:
            drawn[name] = random.uniform(low, high, count)
    return drawn


def checked_points(points: Any) -> dict[str, np.ndarray]:
    """Return the points of a sweep as arrays of one length; raise if they are not."""
    rule = "a mapping of names to numbers, one for each member"
    remedy = "Make one with grid_points or random_points."
    if not isinstance(points, Mapping):
        raise mistyped("points", rule, points, remedy)
    if not points:
        raise invalid("points", rule, dict(points), remedy)
    for name in points:
        if name in RESERVED:
            raise invalid("points", f"a mapping of names other than {RESERVED}", name)
    arrays = {str(name): numbers(str(name), given) for name, given in points.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name}: {n}" for name, n in lengths.items())
        raise ValueError(
            f"`points` must have one number of each name for each member; got {shown}. "
            "For every combination of some values use grid_points."
        )
    return arrays


def numbers(name: str, given: Any) -> np.ndarray:
    """Return given numbers as an array with one axis."""
    if isinstance(given, str) or not hasattr(given, "__iter__") or np.ndim(given) == 0:
        raise mistyped(name, "a list of numbers", given, STRUCTURE)
    if getattr(given, "ndim", 1) > 1:
        rule = f"an array with one axis; its shape is {given.shape}"
        raise invalid(name, rule, given, "Pass its ravel().")
    values = [x.item() if hasattr(x, "item") else x for x in given]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise mistyped(name, "a list of numbers", value, STRUCTURE)
        if isinstance(value, int) and not -(2**31) <= value < 2**31:
            raise invalid(name, "a list of numbers; whole ones within int32", value)
    if not values:
        raise invalid(name, "a list of at least one number", values)
    return np.array(values)


def _check_range(name: str, given: Any) -> None:
    rule = '(low, high, scale) with low < high and the scale "linear" or "log"'
    if not isinstance(given, tuple) or len(given) != 3:
        raise mistyped(name, rule, given)
    low, high, scale = given
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(
            end, int | float | np.integer | np.floating
        ):
            raise mistyped(name, rule, given, STRUCTURE)
    if scale not in SCALES or not (math.isfinite(low) and math.isfinite(high)):
        raise invalid(name, rule, given)
    if not low < high or (scale == "log" and low <= 0):
        raise invalid(name, rule + '; for "log" low > 0', given)
