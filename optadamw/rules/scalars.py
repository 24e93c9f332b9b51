"""Refusing what a rule returns as scalars of a step and is none."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np


def check_scalars(
    call: str, found: Any, publishes: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Return what a method of a rule returned, if it maps names to real scalars.

    Args:
      call: how errors call the method, `lookahead: scalars` for example.
      found: what the method returned.
      publishes: names that must be among the scalars.

    Raises:
      TypeError: no mapping, or something in it that is no real number.
      ValueError: an array that is no scalar, or a published scalar that is missing.
    """
    if not isinstance(found, Mapping):
        raise TypeError(
            f"`{call}` must return a mapping of names to real scalars; got {found!r} "
            f"of type {type(found).__name__}."
        )
    for name, value in found.items():
        if not _is_real(value):
            raise TypeError(
                f"`{call}` must return real scalars; `{name}` is {value!r} of type "
                f"{type(value).__name__}. A hyperparameter gives its number with "
                "`.at(clock)`."
            )
        if np.shape(value) != ():
            raise ValueError(
                f"`{call}` must return real scalars; `{name}` is an array of shape "
                f"{np.shape(value)}. What differs between the elements of a parameter "
                "is computed in `apply`, or kept in a slot."
            )
    for name in publishes:
        if name not in found:
            raise ValueError(
                f"`{call}` must return `{name}`, which the rule publishes; got "
                f"{', '.join(f'`{n}`' for n in found) or 'nothing'}."
            )
    return found


def _is_real(value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return True
    dtype = getattr(value, "dtype", None)
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    return dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in kinds)
