"""Checks that several calls share, in the words of their peers."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from optadamw.base.errors import invalid, mistyped, near
from optadamw.dialects.calls.phrases import TypeAndValueError


def refuse_unknown(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse arguments of `function` that the peer does not know either.

    Raises:
      TypeError, ValueError: one error that is both, as Keras raises the second; it
        lists the arguments whose names are near.
    """
    *legal, _ = inspect.signature(function).parameters
    if not given.get("kwargs", True):
        # optax.inject_hyperparams binds the defaults, an empty `**kwargs` among them.
        given = {name: value for name, value in given.items() if name != "kwargs"}
    for name in given:
        peer = function.__module__.split(".")[-2]
        raise TypeAndValueError(
            f"Argument(s) not recognized: {dict(given)}. {peer}.{function.__name__} "
            f"has no `{name}`. Near it: {near(name, legal)}."
        )


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """Two decay rates, as PyTorch, MLX and Flux take them together."""
    rule = "a pair of decay rates such as (0.9, 0.999)"
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise mistyped(name, rule, value)
    return value[0], value[1]


def label(name: str, value: Any) -> None:
    """Check a name: part of how the transformation prints, and of nothing else."""
    if value is not None and not isinstance(value, str):
        raise mistyped(name, "a string or None", value)
    if value is not None and (not value or "/" in value):
        raise invalid(name, "not empty and without '/'", value)


def whole(name: str, value: Any, least: int, none: str = "") -> int | None:
    """Check a whole number of at least `least`.

    None is legal if `none` is given, which tells in errors what None means.
    """
    if value is None and none:
        return None
    if value is None:
        raise mistyped(name, f"an integer >= {least}", value)
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < least:
        raise invalid(
            name,
            f"an integer >= {least}{' or None' if none else ''}",
            value,
            f"None {none}." if none else "",
        )
    return int(value)


def flag(name: str, value: Any, *, none: bool = True) -> bool | None:
    """Check a flag: True or False, and None unless `none` is False."""
    if isinstance(value, bool) or (none and value is None):
        return value
    raise mistyped(name, "True, False or None" if none else "True or False", value)


def flags(*, none: bool = True, **values: Any) -> None:
    """Check several flags by name; None passes unless `none` is False."""
    for name, value in values.items():
        flag(name, value, none=none)


def scalar(name: str, value: Any) -> Any:
    """Turn an array of one element into an array without axes; PyTorch takes both."""
    if isinstance(value, np.ndarray | jax.Array) and value.size == 1:
        return value.reshape(())
    if isinstance(value, np.ndarray | jax.Array) and value.shape != ():
        raise ValueError(
            f"Tensor {name} must be 1-element. `{name}` must be 1-element; got an "
            f"array of shape {value.shape}."
        )
    return value


def takes(function: Any, count: int) -> bool:
    """Whether a callable can be called with `count` positional arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return count == 1
    return True
