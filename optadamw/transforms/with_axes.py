"""Norms over parameters that a `shard_map` cuts into parts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from optadamw.base.errors import misplaced, mistyped
from optadamw.base.masks import selector
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation


@prints_as_call
def with_axes(
    inner: Transformation, sharded: Mapping[Any, str | Sequence[str]]
) -> Transformation:
    """Sum norms over the axes of a `jax.shard_map` that cuts parameters into parts.

    Inside `jax.shard_map` a step sees the part of each parameter that its device holds.
    The rules of AdamW work on each element and need nothing more. The norm that a clip,
    a guard or a statistic reads is that of all parts: its sums of squares are summed
    over the named axes, so that all devices take the same decision. Without `with_axes`
    a step inside `shard_map` refuses to measure such a norm (JAX must be able to tell
    which arrays differ: with `check_vma=False` nothing is refused).

    Outside `shard_map`, where arrays are whole, `with_axes` has no effect: XLA sums
    over the devices by itself.

    Args:
      inner: a transformation of this library.
      sharded: for each choice of parameters (a pattern, a tuple of patterns, a
        predicate), the axis or axes over which they are cut. The first choice that
        matches counts. A parameter that is whole on an axis is not summed over it, if
        JAX knows that it is whole; with `check_vma=False` choose only those that are
        cut. An empty tuple: each device has a parameter of its own, or trains one of
        its own from now on, and norms are its own.

    Returns:
      A transformation with the state of `inner`.

    Raises:
      TypeError: `inner` is not from this library, or `sharded` is no such mapping.
      ValueError: at construction, `inner` has axes already. When traced: a choice
        matches no parameter; the mesh of the `shard_map` lacks an axis; a gradient
        differs between devices whose parameter does not; `clip_by_norm`,
        `clip_update_by_rms` or `cautious`, which compute on whole parameters, meet a
        part of one; a loss, a weight or a norm that is passed differs between devices.

    Example:
      >>> import jax, jax.numpy as jnp, optadamw
      >>> from jax.sharding import PartitionSpec as P
      >>> auto = (jax.sharding.AxisType.Auto,)
      >>> mesh = jax.make_mesh((1,), ("fsdp",), axis_types=auto)
      >>> plain = optadamw.adamw(1e-3, clip_global_norm=1.0)
      >>> tx = optadamw.with_axes(plain, sharded={"*": "fsdp"})
      >>> params = {"w": jnp.ones((8, 4))}
      >>> state = tx.init(params)
      >>> layout = jax.tree.map(lambda x: P("fsdp") if x.ndim else P(), state)
      >>> step = jax.shard_map(
      ...     lambda g, s, p: tuple(tx.step(g, s, p)),
      ...     mesh=mesh,
      ...     in_specs=(P("fsdp"), layout, P("fsdp")),
      ...     out_specs=(P("fsdp"), layout),
      ... )
      >>> params, state = jax.jit(step)(params, state, params)
    """
    if not isinstance(inner, Transformation):
        raise mistyped("inner", "a transformation of optadamw", inner)
    composition = inner.recipe.composition
    if composition.axes:
        raise misplaced(f"{inner!r} has axes already.", "Use with_axes once.")
    if not isinstance(sharded, Mapping) or not sharded:
        form = 'a mapping such as {"*": "fsdp"}'
        raise mistyped("sharded", form, sharded)
    axes = tuple(
        (selector("sharded", choice), _names(over)) for choice, over in sharded.items()
    )
    return transformation(replace(composition, axes=axes))


def _names(over: Any) -> tuple[str, ...]:
    names = (over,) if isinstance(over, str) else over
    if not isinstance(names, tuple | list) or not all(
        isinstance(name, str) for name in names
    ):
        raise mistyped("sharded", "made of names of axes, or tuples of them", over)
    return tuple(names)
