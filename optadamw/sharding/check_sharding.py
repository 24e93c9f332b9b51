"""Compare the layout of a state with the layout that it should have."""

from typing import Any

import jax
from jax.sharding import Sharding

from optadamw.base.errors import at_leaf, mistyped
from optadamw.base.tree import flatten
from optadamw.base.types import PyTree


def check_sharding(state: PyTree, wanted: PyTree) -> None:
    """Raise an error for the first leaf of `state` that does not lie as wanted.

    Two shardings that put the same part of an array on each device, in memory of the
    same kind, count as equal, however they are written; of an array without elements
    only the devices count. Call the function outside jit: inside, arrays have no
    devices.

    Args:
      state: a state, or any tree of arrays.
      wanted: a tree of the same structure with a `jax.sharding.Sharding`, or a shape or
        array that has one, for each leaf; `state_sharding` makes it.

    Raises:
      TypeError: a leaf of `state` is no `jax.Array`, or one of `wanted` has no
        sharding.
      ValueError: a leaf lies elsewhere, or the structures differ. The message has the
        path of the leaf and both shardings.

    Example:
      >>> import jax.numpy as jnp, optadamw
      >>> tx, params = optadamw.adamw(1e-3), {"w": jnp.ones(2)}
      >>> wanted = optadamw.state_sharding(tx, params)
      >>> optadamw.check_sharding(tx.init(params), wanted)
    """
    held, expected = flatten(state), flatten(wanted)
    surplus = set(held.paths) ^ set(expected.paths)
    if surplus:
        path = next(p for p in (*held.paths, *expected.paths) if p in surplus)
        where = "`wanted`" if path in held.paths else "`state`"
        raise at_leaf(
            path,
            f"{where} has no such leaf.",
            "Make `wanted` by state_sharding with the transformation and the "
            "parameters of this state.",
        )
    shardings = dict(zip(expected.paths, expected.arrays, strict=True))
    for path, array in zip(held.paths, held.arrays, strict=True):
        _check(path, array, shardings[path])


def _check(path: str, array: Any, wanted: Any) -> None:
    sharding = getattr(wanted, "sharding", wanted)
    if not isinstance(sharding, Sharding):
        raise mistyped(f"wanted at {path}", "a sharding", wanted)
    if not isinstance(array, jax.Array) or isinstance(array, jax.core.Tracer):
        raise mistyped(
            f"state at {path}", "an array on devices", array, "Call it outside jit."
        )
    # jit returns an array without elements replicated, whatever its sharding was.
    is_empty = not array.size and array.sharding.device_set == sharding.device_set
    if not is_empty and not array.sharding.is_equivalent_to(sharding, array.ndim):
        raise at_leaf(
            path,
            f"its sharding is {array.sharding}, wanted {sharding}.",
            "Pass out_shardings=state_sharding(...) to the jitted init and step, or "
            "move the state with jax.device_put(state, state_sharding(...)).",
        )
