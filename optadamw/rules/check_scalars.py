"""Check the scalars that a rule returns."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np


def check_scalars(
    call: str, found: Any, publishes: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Return the result of a rule's method, if it maps names to real scalars.

    Args:
      call: the name of the method in errors, such as `lookahead: scalars`.
      found: the result of the method.
      publishes: names that must be among the scalars; default: none.

    Raises:
      TypeError: the result is no mapping, or one of its values is no real number.
      ValueError: a value is an array with axes, or a published scalar is missing.
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
