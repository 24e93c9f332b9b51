"""The axes of a `shard_map` over which a norm must be summed.

Inside `jax.shard_map` an array is the part of one device. JAX knows which arrays differ
between the devices of an axis (unless `check_vma=False`), but not whether they are
parts of one parameter: `with_axes` says so.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from optadamw.base.errors import at_leaf

Axes = tuple[str, ...]


class LeafAxes(NamedTuple):
    """The axes of one leaf inside `shard_map`."""

    summed: Axes = ()
    """The axes over which sums of its numbers are summed further."""
    undeclared: Axes = ()
    """The axes over which it differs without a declaration."""


def leaf_axes(
    declared: Sequence[Axes | None], trees: Sequence[Any]
) -> tuple[LeafAxes, ...] | None:
    """Return the axes of each leaf; None outside `shard_map`.

    Args:
      declared: the axes that `with_axes` names for each leaf; None: it names none.
      trees: the arrays of each leaf: its gradient, parameter and buffers.
    """
    manual = jax.sharding.get_abstract_mesh().manual_axes
    if not manual:
        return None
    is_checked = any(varying(lax.axis_index(axis)) for axis in manual)
    found = []
    for named, tree in zip(declared, trees, strict=True):
        over = frozenset().union(*(varying(x) for x in jax.tree.leaves(tree)))
        present = over if is_checked else frozenset(manual)
        summed = [axis for axis in named or () if axis in present]
        extra = () if named == () else sorted(over - set(named or ()))
        found.append(LeafAxes(tuple(summed), tuple(extra)))
    return tuple(found)


def varying(x: Any) -> frozenset[str]:
    """Return the axes of a `shard_map` over which `x` differs, as far as JAX knows."""
    if not isinstance(x, jax.core.Tracer):
        return frozenset()
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def refuse_undeclared(path: str, axes: LeafAxes, reader: str) -> None:
    """Refuse a norm over a leaf of which each device has another part or value."""
    if axes.undeclared:
        over = ", ".join(repr(axis) for axis in axes.undeclared)
        raise at_leaf(
            path,
            f"inside shard_map it differs between the devices of {over}, and {reader} "
            "would be that of one device's part.",
            "If it is a gradient that was not summed, sum it with jax.lax.psum. If it "
            'is a part of a parameter, say so: with_axes(tx, sharded={"*": '
            f"{axes.undeclared[0]!r}}}). If each device has a model of its own, name "
            'no axis: with_axes(tx, sharded={"*": ()}).',
        )


def refuse_unreduced(path: str, grad: Any) -> None:
    """Refuse a gradient of which each device of an explicit axis has a summand."""
    if not isinstance(grad, jax.Array):
        return
    summands = getattr(jax.typeof(grad).sharding.spec, "unreduced", None)
    if summands:
        over = ", ".join(repr(axis) for axis in sorted(summands))
        raise at_leaf(
            path,
            f"its gradient is unreduced over {over}: each device has a summand, and "
            "the step needs the sum.",
            "Sum it: jax.sharding.reshard(grad, <the sharding of the parameter>).",
        )


def refuse_varying(name: str, value: Any) -> None:
    """Refuse a number of the whole tree that differs between devices."""
    axes = varying(value)
    if axes:
        over = ", ".join(repr(axis) for axis in sorted(axes))
        raise ValueError(
            f"`{name}` differs between the devices of {over} inside shard_map, so that "
            "they would decide differently. Pass one number, such as "
            f"jax.lax.pmean({name}, {sorted(axes)[0]!r})."
        )


def summed(x: Any, axes: Iterable[str]) -> Any:
    """Return the sum of `x` over the devices of these axes."""
    names = tuple(axes)
    return lax.psum(x, names) if names else x
