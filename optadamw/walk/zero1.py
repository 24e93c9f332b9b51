"""ZeRO-1: the step on a view of the parameters that is divided further.

Each parameter has a home, the layout in which it is kept between steps, and is away
during a step: divided over one axis more, as its gradient and all its buffers are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, reshard

from optadamw.base.errors import at_leaf
from optadamw.base.tree import Leaves
from optadamw.leaf.program import LeafInput, Program
from optadamw.store.layout import OnWhole, divided, refuse_missing, report_whole
from optadamw.store.store import Store


@dataclass(frozen=True)
class Zero1:
    """The checked arguments of `with_zero1`."""

    axis: tuple[str, ...]
    on_whole: OnWhole | None = "report"
    homes: tuple[NamedSharding, ...] | None = field(default=None, repr=False)
    """The layout of each parameter; None: that of the arrays of a call."""


class LeafLayout(NamedTuple):
    """The layouts of one parameter."""

    home: NamedSharding
    """The layout of the parameter between steps."""
    away: NamedSharding
    """The layout of its gradient and its buffers, and its own during a step."""

    def entered(self, given: LeafInput) -> LeafInput:
        """Return the input of a leaf function, away."""
        # The home first: with one constraint XLA would move the constraint out of a
        # loop, whose carry would become the divided parameter, gathered in every call.
        param = given.param
        if param is not None:
            param = put(put(param, self.home), self.away)
        return given._replace(grad=put(given.grad, self.away), param=param)

    def left(self, program: Program, output: Any, buffers: Any, like: Any) -> Any:
        """Return the outputs of a leaf function: at home, and its buffers away."""
        kept = {
            slot.name: kept_away(slot.store, buffers[slot.name], like, self)
            for slot in program.slots
        }
        return put(put(output, self.away), self.home), {**buffers, **kept}


def kept_away(store: Store, buffer: Any, like: Any, layout: LeafLayout) -> Any:
    """Return a buffer of a parameter like `like` in the layout of its store, away."""
    shape = jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=layout.away)
    return jax.tree.map(lambda x, s: put(x, s.sharding), buffer, store.zeros(shape))


def layouts_of(
    zero1: Zero1 | None, leaves: Leaves, *, is_first: bool = False
) -> tuple[LeafLayout, ...] | None:
    """Return the layouts of each parameter; None without `with_zero1`.

    Args:
      zero1: the arguments of `with_zero1`.
      leaves: the parameters.
      is_first: whether leaves that cannot be divided are reported.

    Raises:
      ValueError, TypeError: the layout of a parameter is not known or is on no mesh;
        its mesh lacks the axis, or divides the parameter over it already.
    """
    if zero1 is None:
        return None
    pairs = list(zip(leaves.paths, leaves.arrays, strict=True))
    homes = zero1.homes or tuple(_home(*pair, zero1.axis) for pair in pairs)
    if len(homes) != len(pairs):
        raise ValueError(
            f"`layout` has {len(homes)} shardings, and there are {len(pairs)} "
            "parameters. Pass a tree with the structure of the parameters."
        )
    layouts = []
    for (path, array), home in zip(pairs, homes, strict=True):
        away = divided(path, array.shape, home, zero1.axis)
        layouts.append(LeafLayout(home, home if away is None else away))
    if is_first:
        whole = undivided(leaves, layouts)
        report_whole(whole, zero1.axis, zero1.on_whole)
    return tuple(layouts)


def undivided(leaves: Leaves, layouts: Sequence[LeafLayout]) -> list[str]:
    """Return the paths of parameters of which the axes divide no dimension."""
    rows = zip(leaves.paths, leaves.arrays, layouts, strict=True)
    return [path for path, x, at in rows if at.home == at.away and x.size > 1]


def homes_of(arrays: Sequence[Any]) -> tuple[NamedSharding, ...] | None:
    """Return the layouts of parameters outside jit; None if one is traced."""
    if any(isinstance(x, jax.core.Tracer) for x in arrays):
        return None
    return tuple(x.sharding for x in arrays)


def _home(path: str, array: Any, axes: Sequence[str]) -> Any:
    if not isinstance(array, jax.core.Tracer):
        return array.sharding
    sharding = jax.typeof(array).sharding
    if not sharding.mesh.empty:
        refuse_missing(path, sharding.mesh, axes)
    kinds = set(sharding.mesh.axis_types)
    if kinds == {AxisType.Explicit}:
        return sharding
    raise at_leaf(
        path,
        "its layout is not known inside jit, where arrays have shardings on explicit "
        "axes only, and with_zero1 divides its buffers beyond it.",
        "Pass the layout of the parameters: with_zero1(tx, axis, layout=jax.tree.map("
        "lambda x: x.sharding, params)), in adamw zero1_layout=. Or call tx.jit_step.",
    )


def put(x: Any, sharding: NamedSharding) -> Any:
    """Return `x` in a layout: a constraint on automatic axes, else a change of type."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    if not isinstance(x, jax.core.Tracer):
        return jax.device_put(x, sharding)
    if AxisType.Explicit in sharding.mesh.axis_types:
        return reshard(x, sharding)
    return lax.with_sharding_constraint(x, sharding)
