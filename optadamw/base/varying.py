"""The axes of a `shard_map` over which arrays differ, as far as JAX knows them.

Inside `jax.shard_map` the type of an array says over which axes its devices have
different values, except with `check_vma=False`. Both branches of a condition, and the
carry of a loop before and after a turn, must agree in it.
"""

from collections.abc import Iterable
from typing import Any

import jax
from jax import lax

from optadamw.base.types import Array


def varying(tree: Any) -> frozenset[str]:
    """Return the axes over which any array of a tree differs between devices."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return frozenset()
    kinds = [
        jax.typeof(x).manual_axis_type
        for x in jax.tree.leaves(tree)
        if isinstance(x, jax.core.Tracer)
    ]
    return frozenset().union(*(kind.varying for kind in kinds))


def made_varying(x: Array, axes: Iterable[str]) -> Array:
    """Return `x` with the type of an array that differs over these axes too."""
    missing = tuple(sorted(set(axes) - varying(x)))
    return lax.pcast(x, missing, to="varying") if missing else x
