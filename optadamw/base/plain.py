"""Numbers that must be known when something is made, of Python or NumPy."""

from typing import Any

import numpy as np

from optadamw.base.errors import invalid, mistyped


def python_number(
    name: str, value: Any, rule: str = "a number", remedy: str = ""
) -> int | float:
    """Check a number of Python, a scalar of NumPy or its 0-d array; not a bool.

    The number comes back as it is, int or float: x**2 and x**2.0 may be two ways of
    computing.

    Args:
      name: the name of the argument.
      value: the argument.
      rule: the text of the error on what is legal. Default: "a number".
      remedy: the error's last sentence. Default: none.
    """
    is_scalar = isinstance(value, np.number | np.ndarray) and np.ndim(value) == 0
    if is_scalar and not isinstance(value, np.ma.MaskedArray):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise mistyped(name, rule, value, remedy)
    return value


def whole_number(name: str, value: Any, rule: str, least: int | None = None) -> int:
    """Check an integer of Python or NumPy, no bool, and return it as one of Python.

    Args:
      name: the name of the argument.
      value: the argument.
      rule: the text of the error on what is legal.
      least: the smallest legal number; None (default): there is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise mistyped(name, rule, value)
    if least is not None and value < least:
        raise invalid(name, rule, value)
    return int(value)
