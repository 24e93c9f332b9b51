"""Barriers that order XLA's computations on the CPU.

A fusion of XLA's CPU backend has one result, so a value that several results need is
computed anew for each of them. On other backends one fusion has all results, and a
barrier would cut it in two.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optadamw.base.types import Array
from optadamw.base.varying import varying


def materialized(values: Any) -> Any:
    """Return `values` unchanged; on the CPU XLA first writes them to memory."""
    arrays, treedef = jax.tree.flatten(values)
    kinds = [varying(x) for x in arrays]
    # One barrier for each type: jax 0.10 gives all results of a barrier the widest
    # type, and a parameter that is whole would come out as one that is cut.
    for kind in dict.fromkeys(kinds):
        places = [i for i, other in enumerate(kinds) if other == kind]
        made = lax.platform_dependent(
            [arrays[i] for i in places],
            cpu=lax.optimization_barrier,
            default=lambda values: values,
        )
        for i, array in zip(places, made, strict=True):
            arrays[i] = array
    return jax.tree.unflatten(treedef, arrays)


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
