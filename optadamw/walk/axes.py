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
from optadamw.base.varying import varying
from optadamw.leaf.program import LeafInput
from optadamw.store.layout import refuse_missing

Axes = tuple[str, ...]


class LeafAxes(NamedTuple):
    """The axes of one leaf inside `shard_map`."""

    summed: Axes = ()
    """The axes over which sums of its numbers are summed further."""
    undeclared: Axes = ()
    """The axes over which it differs without a declaration."""
    summands: Axes = ()
    """The axes over which its gradient differs, and neither parameter nor buffers."""


def leaf_axes(
    declared: Sequence[Axes | None], leaves: Sequence[LeafInput], paths: Sequence[str]
) -> tuple[LeafAxes, ...] | None:
    """Return the axes of each leaf; None outside `shard_map`.

    Args:
      declared: the axes that `with_axes` names for each leaf; None: it names none.
      leaves: gradient, parameter and buffers of each leaf.
      paths: the path of each leaf, for errors.

    Raises:
      ValueError: `with_axes` names an axis that the mesh lacks.
    """
    mesh = jax.sharding.get_abstract_mesh()
    manual = mesh.manual_axes
    if not manual:
        return None
    is_checked = any(varying(lax.axis_index(axis)) for axis in manual)
    found = []
    for named, leaf, path in zip(declared, leaves, paths, strict=True):
        refuse_missing(path, mesh, named or ())
        over = varying(leaf)
        present = over if is_checked else frozenset(manual)
        summed = [axis for axis in named or () if axis in present]
        extra: Sequence[str] = ()
        summands: Sequence[str] = ()
        if named != ():  # with () each device has a model of its own
            extra = sorted(over - set(named or ()))
            kept = (leaf.param, leaf.buffers)
            if jax.tree.leaves(kept):
                summands = sorted(varying(leaf.grad) - varying(kept))
        found.append(LeafAxes(tuple(summed), tuple(extra), tuple(summands)))
    return tuple(found)


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


def refuse_summands(path: str, axes: LeafAxes) -> None:
    """Refuse a gradient that differs between devices whose parameter is the same."""
    if axes.summands:
        over = ", ".join(repr(axis) for axis in axes.summands)
        raise at_leaf(
            path,
            f"inside shard_map its gradient is unreduced: it differs between the "
            f"devices of {over}, and the parameter does not.",
            f"Sum it with jax.lax.psum(grads, {axes.summands[0]!r}), or take its mean "
            "with jax.lax.pmean. If each device trains a model of its own from here "
            'on, say so: with_axes(tx, sharded={"*": ()}).',
        )


def refuse_unreduced(path: str, grad: Any) -> None:
    """Refuse a gradient whose type says that each device has a summand of it."""
    if not isinstance(grad, jax.Array):
        return
    kind = jax.typeof(grad)
    explicit = getattr(kind.sharding.spec, "unreduced", None)
    manual = getattr(kind.manual_axis_type, "unreduced", None)
    summands = explicit or manual
    if summands:
        over = ", ".join(repr(axis) for axis in sorted(summands))
        remedy = "jax.sharding.reshard(grad, <the sharding of the parameter>)"
        if not explicit:
            remedy = f"jax.lax.psum(grad, {sorted(summands)[0]!r})"
        raise at_leaf(
            path,
            f"its gradient is unreduced over {over}: each device has a summand, and "
            "the step needs the sum.",
            f"Sum it: {remedy}.",
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


def varying_norms(
    leaves: Sequence[LeafInput], axes: Sequence[Sequence[str]] | None
) -> frozenset[str]:
    """Return the axes over which norms of leaves differ, after their sums over `axes`.

    Args:
      leaves: the leaves of the norms.
      axes: the axes over which the norm of each leaf is summed; None: over none.
    """
    over = axes or ((),) * len(leaves)
    left = [varying(leaf) - set(own) for leaf, own in zip(leaves, over, strict=True)]
    return frozenset().union(*left)


def summed(x: Any, axes: Iterable[str]) -> Any:
    """Return the sum of `x` over the devices of these axes."""
    names = tuple(axes)
    return lax.psum(x, names) if names else x
