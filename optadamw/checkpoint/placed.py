"""Put the target of a restore into a layout that the user chose."""

from typing import Any

import jax
from jax.sharding import Sharding

from optadamw.base.errors import at_leaf, mistyped
from optadamw.base.types import PyTree
from optadamw.checkpoint.names import Named, named_state


def placed(target: Named, sharding: PyTree) -> Named:
    """Return the target with its leaves in the layout `sharding`.

    Raises:
      TypeError: a leaf of `sharding` is no sharding.
      ValueError: `sharding` has another structure than the state.
    """
    layout = named_state(sharding, "sharding")
    wanted = dict(zip(map(str, layout.names), layout.leaves, strict=True))
    names = [str(name) for name in target.names]
    surplus = set(names) ^ set(wanted)
    if surplus:
        first = next(name for name in (*names, *wanted) if name in surplus)
        where = "tx.init(params)" if first in wanted else "`sharding`"
        raise at_leaf(
            first,
            f"{where} has no such leaf.",
            "Make `sharding` by state_sharding with the same `tx` and `params`.",
        )
    pairs = zip(names, target.leaves, strict=True)
    leaves = [_moved(name, leaf, wanted[name]) for name, leaf in pairs]
    return target._replace(leaves=tuple(leaves))


def _moved(name: str, leaf: Any, sharding: Any) -> Any:
    if not isinstance(sharding, Sharding):
        raise mistyped(f"sharding at {name}", "a sharding", sharding)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return jax.device_put(leaf, sharding)
