"""Barriers that order XLA's computations on the CPU.

A fusion of XLA's CPU backend has one result, so a value that several results need is
computed anew for each of them. On other backends one fusion has all results, and a
barrier would cut it in two.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from optadamw.base.types import Array


def materialized(values: Any) -> Any:
    """Return `values` unchanged; on the CPU XLA first writes them to memory."""
    return lax.platform_dependent(
        values, cpu=lax.optimization_barrier, default=lambda values: values
    )


def finish_first(made: Any, operands: Any) -> tuple[Any, Any]:
    """Return both unchanged, so that XLA finishes `made` before it reads `operands`.

    A moment that is rounded in the state is computed twice: unrounded for the
    parameter, and again from the old buffer for the new buffer. XLA's CPU backend makes
    a pass of each, and copies the old buffer unless the order of the two is fixed (2.1
    bytes of temporaries for each number in 8 bits; with the barrier, none).
    """
    return materialized((made, operands))


def waiting_for(found: Mapping[str, Array], array: Array) -> Array:
    """Return `array` unchanged, so that XLA reads it after it has computed `found`.

    It then cannot merge what leads to `found` with the same operations on `array`, and
    keep their results in memory between the two. A barrier does not do it: jax 0.10
    drops it before XLA merges.
    """
    never = jnp.zeros((), bool)
    for number in found.values():
        # No number is both, which XLA does not know.
        never = never | ((number < 0) & (number > 1))
    return jnp.where(never, jnp.zeros_like(array), array)
