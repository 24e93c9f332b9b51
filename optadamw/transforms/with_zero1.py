"""ZeRO-1: buffers divided over an axis on which the parameters are whole."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import jax
from jax.sharding import NamedSharding

from optadamw.base.errors import invalid, misplaced, mistyped
from optadamw.base.tree import flatten
from optadamw.base.types import PyTree
from optadamw.store.layout import OnWhole, axes_of
from optadamw.transforms.call import prints_as_call
from optadamw.transforms.transformation import Transformation, transformation
from optadamw.walk.zero1 import Zero1


@prints_as_call
def with_zero1(
    inner: Transformation,
    axis: str | Sequence[str] = "data",
    *,
    layout: PyTree = None,
    on_whole: OnWhole = "report",
) -> Transformation:
    """Divide the state over an axis of the mesh on which the parameters are whole.

    This is ZeRO-1 (Rajbhandari et al., arXiv 1910.02054, section 5.1), and ZeRO-2 for
    the accumulator of `multi_steps`. Each device keeps its part of every buffer, takes
    the step on its part of the parameter, and the updated parameter is gathered once,
    in its own dtype. Gradients that XLA has to sum over the axis are reduce-scattered.
    Parameters keep their layout, and a call that only accumulates gathers nothing. The
    numbers are those of the step without `with_zero1`, bit for bit, unless a rule takes
    a norm, whose sum then has another order, except with `with_reproducible_norms`.

    Each parameter is divided along the largest dimension that the axis divides, the
    last one only if no other fits. Other axes that divide it stay (tensor parallelism).

    Args:
      inner: a transformation of this library.
      axis: the name of the axis, or a tuple of names. Default: "data".
      layout: the shardings of the parameters, a tree such as `jax.tree.map(lambda x:
        x.sharding, params)`. It is needed only in a function that you compile with
        `jax.jit` on automatic axes, where JAX does not tell shardings while tracing.
        None (default): the shardings of the parameters that are passed.
      on_whole: what `init` does with a parameter of more than one element of which the
        axis divides no dimension. "report" (default) leaves its buffers as the
        parameter lies, and warns with the paths of such parameters; "raise" raises.

    Returns:
      A transformation whose state has the structure of that of `inner`.

    Raises:
      TypeError: `inner` is not from this library, or an argument has another form. At
        `init`: a parameter is on no mesh.
      ValueError: `inner` has it already. At `init` and when a step is traced: the mesh
        has no such axis, a parameter is divided over it already, or its layout is not
        known. The message has the path of the leaf.

    Example:
      >>> import jax, jax.numpy as jnp, optadamw
      >>> from jax.sharding import NamedSharding, PartitionSpec
      >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
      >>> replicated = NamedSharding(mesh, PartitionSpec())
      >>> params = {"w": jax.device_put(jnp.ones((64, 8)), replicated)}
      >>> tx = optadamw.with_zero1(optadamw.adamw(1e-3), "data")
      >>> state = tx.init(params)
      >>> state.mu["w"].sharding.spec[0], params["w"].sharding.spec
      ('data', P())
      >>> grads = {"w": jax.device_put(jnp.ones((64, 8)), replicated)}
      >>> params, state = tx.jit_step(grads, state, params)
      >>> params["w"].sharding.is_fully_replicated
      True
    """
    if not isinstance(inner, Transformation):
        raise mistyped("inner", "a transformation of optadamw", inner)
    composition = inner.recipe.composition
    if composition.zero1 is not None:
        raise misplaced(f"{inner!r} has with_zero1 already.", "Use it once.")
    if on_whole not in get_args(OnWhole):
        raise invalid("on_whole", '"report" or "raise"', on_whole)
    zero1 = Zero1(axes_of("axis", axis), on_whole, _homes(layout))
    return transformation(replace(composition, zero1=zero1))


def _homes(layout: Any) -> tuple[NamedSharding, ...] | None:
    if layout is None:
        return None
    flat = flatten(layout)
    for path, sharding in zip(flat.paths, flat.arrays, strict=True):
        if not isinstance(sharding, NamedSharding):
            where = f" at '{path}'" if path else ""
            rule = f"a tree of jax.sharding.NamedSharding{where}"
            raise mistyped("layout", rule, sharding)
    return tuple(jax.tree.leaves(layout))
